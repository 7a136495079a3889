{{/* Refuses values that contradict each other or ask for what this agent cannot do, in words that say what to change. */}}
{{- define "gitlab-agent.checks" -}}
{{- include "gitlab-agent.checkUnsupported" . -}}
{{- with .Values.config -}}
{{- if not .kasAddress -}}
{{- fail "config.kasAddress is required: the address of kas, such as wss://kas.example.com" -}}
{{- end -}}
{{- if not (or .token .secretName .tokenFile) -}}
{{- fail "an agent token is required: give one of config.token, config.secretName (an existing Secret with key \"token\") and config.tokenFile" -}}
{{- end -}}
{{- if and .tokenFile (or .token .secretName) -}}
{{- fail "config.tokenFile excludes config.token and config.secretName: give one of them" -}}
{{- end -}}
{{- with .observability.tls -}}
{{- if and .enabled .secret.create (not (and .cert .key)) -}}
{{- fail "config.observability.tls.secret.create needs config.observability.tls.cert and .key, in PEM" -}}
{{- end -}}
{{- end -}}
{{- if and $.Values.serviceMonitor.enabled (not .observability.enabled) -}}
{{- fail "serviceMonitor.enabled needs config.observability.enabled" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.rbac.useExistingRole .Values.rbac.profile (eq (include "gitlab-agent.profile" .) "impersonate-only") -}}
{{- fail "rbac.useExistingRole excludes rbac.profile impersonate-only" -}}
{{- end -}}
{{- end -}}

{{- define "gitlab-agent.checkUnsupported" -}}
{{- $config := .Values.config -}}
{{- $receptive := "not supported yet: agents that kas connects to (receptive agents)" -}}
{{- if $config.receptive.enabled -}}
{{- fail (printf "config.receptive.enabled is %s" $receptive) -}}
{{- end -}}
{{- if or $config.api.jwtPublicKey $config.api.tls.enabled -}}
{{- fail (printf "config.api.jwtPublicKey and config.api.tls are %s" $receptive) -}}
{{- end -}}
{{- if $config.privateApi.tls.enabled -}}
{{- fail (printf "config.privateApi.tls is %s" $receptive) -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- fail (printf "ingress.enabled is %s" $receptive) -}}
{{- end -}}
{{- if index .Values "ingress-nginx" "enabled" -}}
{{- fail (printf "ingress-nginx.enabled is %s" $receptive) -}}
{{- end -}}
{{- end -}}
