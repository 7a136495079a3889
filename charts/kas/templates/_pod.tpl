{{/* What the daemon and the pod of "helm test" both mount. */}}
{{- define "kas.volumes" -}}
- name: etc-kas
  projected:
    defaultMode: 0440
    sources:
    {{- range splitList "\n" (include "kas.files" .) }}
    {{- if trim . }}
    {{ . }}
    {{- end }}
    {{- end }}
{{- if and .Values.standalone.enabled .Values.standalone.repositoriesVolume }}
- name: repositories
  {{- toYaml .Values.standalone.repositoriesVolume | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The files in /etc/kas, one source of a projected volume per line. */}}
{{- define "kas.files" -}}
{{ include "kas.key" (list (printf "%s-config" (include "kas.fullname" .)) "config.yaml" "config.yaml") }}
{{- if .Values.gitlab.address }}
{{ include "kas.key" (list (.Values.gitlab.sharedSecret.secret | default (include "kas.generatedSecret" .)) .Values.gitlab.sharedSecret.key ".gitlab_kas_secret") }}
{{ include "kas.key" (list (.Values.websocketToken.secret | default (include "kas.generatedSecret" .)) .Values.websocketToken.key ".gitlab_kas_websocket_token_secret") }}
{{ include "kas.key" (list .Values.gitlab.caSecret.secret .Values.gitlab.caSecret.key "gitlab/ca.crt") }}
{{- end }}
{{- if .Values.redis.enabled }}
{{ include "kas.key" (list (.Values.privateApi.secret | default (include "kas.generatedSecret" .)) .Values.privateApi.key ".gitlab_kas_private_api_secret") }}
{{ include "kas.redisKeys" (list .Values.redis "redis") }}
{{ include "kas.redisKeys" (list .Values.redis.sentinel "redis-sentinel") }}
{{- end }}
{{- if .Values.tls.enabled }}
{{ include "kas.pair" (list .Values.tls.secretName "tls") }}
{{ include "kas.key" (list .Values.tls.caSecretName "ca.crt" "tls/ca.crt") }}
{{- end }}
{{- end -}}

{{/* One key of a Secret as a file: (list secret key path). */}}
{{- define "kas.key" -}}
{{- if index . 0 -}}
- secret: {name: {{ index . 0 | quote }}, items: [{key: {{ index . 1 | quote }}, path: {{ index . 2 | quote }}}]}
{{- end -}}
{{- end -}}

{{/* A certificate with its key: (list secret folder). */}}
{{- define "kas.pair" -}}
{{- if index . 0 -}}
- secret: {name: {{ index . 0 | quote }}, items: [{key: tls.crt, path: {{ index . 1 }}/tls.crt}, {key: tls.key, path: {{ index . 1 }}/tls.key}]}
{{- end -}}
{{- end -}}

{{/* (list values folder) */}}
{{- define "kas.redisKeys" -}}
{{- $r := index . 0 -}}{{- $dir := index . 1 -}}
{{ include "kas.key" (list $r.passwordSecret.secret $r.passwordSecret.key (printf "%s/password" $dir)) }}
{{- if $r.tls.enabled }}
{{ include "kas.key" (list $r.tls.caSecret.secret $r.tls.caSecret.key (printf "%s/ca.crt" $dir)) }}
{{ include "kas.pair" (list $r.tls.certificateSecret $dir) }}
{{- end }}
{{- end -}}

{{- define "kas.volumeMounts" -}}
- {name: etc-kas, mountPath: /etc/kas, readOnly: true}
{{- if and .Values.standalone.enabled .Values.standalone.repositoriesVolume }}
- {name: repositories, mountPath: {{ .Values.standalone.repositoriesDir | quote }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kas.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- if .Values.redis.enabled }}
- name: OWN_PRIVATE_API_URL
  {{- $scheme := ternary "grpcs" "grpc" .Values.tls.enabled }}
  value: {{ if eq .Values.privateApi.ipFamily "IPv6" }}{{ $scheme }}://[$(POD_IP)]:8155{{ else }}{{ $scheme }}://$(POD_IP):8155{{ end }}
{{- if .Values.tls.enabled }}
- name: OWN_PRIVATE_API_HOST
  value: {{ .Values.privateApi.tlsServerName | default (printf "%s-private.%s.svc" (include "kas.fullname" .) .Release.Namespace) }}
{{- end }}
{{- end }}
{{- if dig "limits" "memory" "" .Values.resources }}
- name: GOMEMLIMIT
  valueFrom: {resourceFieldRef: {containerName: kas, resource: limits.memory}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kas.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "hostAliases" -}}
{{- with index $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}
