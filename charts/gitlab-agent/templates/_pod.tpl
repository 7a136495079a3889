{{/* The files in which a pod of this chart finds its token, certificates and account. */}}
{{- define "gitlab-agent.volumes" -}}
- name: service-account-token
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- if not .Values.config.tokenFile }}
- name: secrets
  secret:
    secretName: {{ include "gitlab-agent.tokenSecret" . }}
    defaultMode: 0444
    items:
      - key: token
        path: token
{{- end }}
{{- if include "gitlab-agent.ca" . }}
- name: config
  configMap:
    name: {{ include "gitlab-agent.fullname" . }}
    defaultMode: 0444
{{- end }}
{{- if .Values.config.observability.tls.enabled }}
- name: observability-secrets
  secret:
    secretName: {{ .Values.config.observability.tls.secret.name }}
    defaultMode: 0444
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gitlab-agent.volumeMounts" -}}
- name: service-account-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- if not .Values.config.tokenFile }}
- name: secrets
  mountPath: /etc/agentk/secrets
  readOnly: true
{{- end }}
{{- if include "gitlab-agent.ca" . }}
- name: config
  mountPath: /etc/agentk/config
  readOnly: true
{{- end }}
{{- if .Values.config.observability.tls.enabled }}
- name: observability-secrets
  mountPath: /etc/agentk/observability-secrets
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* PEM certificates to trust for kas; caCert is the older name of the value. */}}
{{- define "gitlab-agent.ca" -}}
{{- .Values.config.kasCaCert | default .Values.config.caCert | default "" -}}
{{- end -}}

{{/* The flags of agentk. The doctor takes the same, so that it sees what the agent does. */}}
{{- define "gitlab-agent.args" -}}
- {{ printf "--token-file=%s" (default "/etc/agentk/secrets/token" .Values.config.tokenFile) | quote }}
- {{ printf "--kas-address=%s" .Values.config.kasAddress | quote }}
{{- if include "gitlab-agent.ca" . }}
- --kas-ca-cert-file=/etc/agentk/config/ca.crt
{{- end }}
{{- range .Values.config.kasHeaders }}
- {{ printf "--kas-header=%s" . | quote }}
{{- end }}
{{- with include "gitlab-agent.impersonationAccount" . }}
- --impersonation-service-account={{ $.Release.Namespace }}/{{ . }}
{{- end }}
- --shutdown-grace-period={{ .Values.shutdownGracePeriodSeconds }}s
{{- if .Values.config.observability.tls.enabled }}
- --observability-cert-file=/etc/agentk/observability-secrets/tls.crt
- --observability-key-file=/etc/agentk/observability-secrets/tls.key
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gitlab-agent.env" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: SERVICE_ACCOUNT_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
{{- $limits := dig "limits" dict (default dict .Values.resources) }}
{{- if $limits.cpu }}
- name: GOMAXPROCS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- end }}
{{- if $limits.memory }}
- name: GOMEMLIMIT
  valueFrom:
    resourceFieldRef:
      resource: limits.memory
{{- end }}
- name: GITLAB_AGENT_TELEMETRY_installation_method
  value: helm-chart
- name: GITLAB_AGENT_TELEMETRY_helm_chart_version
  value: {{ .Chart.Version | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The certificates are read at the start only, so new ones must start new pods. The token is read again by itself. */}}
{{- define "gitlab-agent.podAnnotations" -}}
{{- $own := dict "kubectl.kubernetes.io/default-container" "agentk" -}}
{{- with include "gitlab-agent.ca" . -}}
{{- $_ := set $own "checksum/ca" (sha256sum .) -}}
{{- end -}}
{{- toYaml (merge (deepCopy (default dict .Values.podAnnotations)) $own) -}}
{{- end -}}

{{- define "gitlab-agent.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What the scheduler and the kubelet are told about any pod of this chart. */}}
{{- define "gitlab-agent.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Constraints without a selector of their own are about the pods of this release. */}}
{{- define "gitlab-agent.spread" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "gitlab-agent.selectorLabels" . | fromYaml)) -}}
{{- $constraints := list -}}
{{- range .Values.topologySpreadConstraints -}}
{{- $constraints = append $constraints (merge (deepCopy .) (ternary dict $selector (hasKey . "labelSelector"))) -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}
