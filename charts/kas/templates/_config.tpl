{{/* The configuration file as this chart writes it, before customConfig. Addresses without a host: of both families, where the pod has both. */}}
{{- define "kas.baseConfig" -}}
{{- $tls := "" -}}
{{- if .Values.tls.enabled -}}
{{- $tls = "certificate_file: /etc/kas/tls/tls.crt\nkey_file: /etc/kas/tls/tls.key" -}}
{{- end -}}
{{- $accept := printf "listen_grace_period: %ds" (int .Values.drain.listenGracePeriodSeconds) -}}
agent:
  listen:
    address: ":8150"
    websocket: true
    {{- $accept | nindent 4 }}
    {{- $tls | nindent 4 }}
  kubernetes_api:
    listen:
      address: ":8154"
      {{- $accept | nindent 6 }}
      shutdown_grace_period: {{ int .Values.drain.shutdownGracePeriodSeconds }}s
      {{- $tls | nindent 6 }}
    url_path_prefix: {{ .Values.ingress.k8sApiPath | trimSuffix "/" }}/
    {{- if .Values.gitlab.address }}
    websocket_token_secret_file: /etc/kas/.gitlab_kas_websocket_token_secret
    {{- end }}
observability:
  listen: {address: ":8151"}
  liveness_probe: {url_path: /liveness}
  readiness_probe: {url_path: /readiness}
  logging: {level: {{ .Values.observability.logLevel }}, grpc_level: {{ .Values.observability.grpcLogLevel }}}
{{- if .Values.gitlab.address }}
gitlab:
  address: {{ .Values.gitlab.address | quote }}
  {{- with .Values.gitlab.externalUrl }}
  external_url: {{ . | quote }}
  {{- end }}
  authentication_secret_file: /etc/kas/.gitlab_kas_secret
  {{- if .Values.gitlab.caSecret.secret }}
  ca_certificate_file: /etc/kas/gitlab/ca.crt
  {{- end }}
api:
  listen:
    address: ":8153"
    authentication_secret_file: /etc/kas/.gitlab_kas_secret
    {{- $accept | nindent 4 }}
    {{- $tls | nindent 4 }}
{{- end }}
{{- if .Values.standalone.enabled }}
standalone:
  repositories_dir: {{ .Values.standalone.repositoriesDir | quote }}
  {{- with include "kas.kubernetesApiUrl" . }}
  kubernetes_api_url: {{ . | quote }}
  {{- end }}
  any_namespace: {{ .Values.standalone.anyNamespace }}
  projects: {{ toJson .Values.standalone.projects }}
  agents: {{ toJson .Values.standalone.agents }}
  jobs: {{ toJson .Values.standalone.jobs }}
{{- end }}
{{- if .Values.redis.enabled }}
redis:
  {{- include "kas.redisConfig" . | nindent 2 }}
private_api:
  listen:
    address: ":8155"
    authentication_secret_file: /etc/kas/.gitlab_kas_private_api_secret
    {{- $accept | nindent 4 }}
    {{- $tls | nindent 4 }}
    {{- if and .Values.tls.enabled .Values.tls.caSecretName }}
    ca_certificate_file: /etc/kas/tls/ca.crt
    {{- end }}
{{- end }}
{{- end -}}

{{- define "kas.redisConfig" -}}
{{- $r := .Values.redis -}}
network: {{ $r.network }}
{{- if $r.server.address }}
server: {address: {{ $r.server.address | quote }}}
{{- end }}
{{- if $r.sentinel.masterName }}
sentinel:
  master_name: {{ $r.sentinel.masterName | quote }}
  addresses: {{ toJson $r.sentinel.addresses }}
  {{- if $r.sentinel.passwordSecret.secret }}
  sentinel_password_file: /etc/kas/redis-sentinel/password
  {{- end }}
  {{- if $r.sentinel.tls.enabled }}
  tls: {{ include "kas.redisTLS" (list $r.sentinel.tls "/etc/kas/redis-sentinel") }}
  {{- end }}
{{- end }}
{{- if $r.cluster.addresses }}
cluster: {addresses: {{ toJson $r.cluster.addresses }}}
{{- end }}
{{- with $r.username }}
username: {{ . | quote }}
{{- end }}
{{- if $r.passwordSecret.secret }}
password_file: /etc/kas/redis/password
{{- end }}
{{- with int $r.databaseIndex }}
database_index: {{ . }}
{{- end }}
{{- with $r.keyPrefix }}
key_prefix: {{ . | quote }}
{{- end }}
{{- if $r.tls.enabled }}
tls: {{ include "kas.redisTLS" (list $r.tls "/etc/kas/redis") }}
{{- end }}
{{- end -}}

{{/* (list values folder) */}}
{{- define "kas.redisTLS" -}}
{{- $tls := index . 0 -}}{{- $dir := index . 1 -}}
{enabled: true
{{- if $tls.caSecret.secret }}, ca_certificate_file: {{ $dir }}/ca.crt{{ end }}
{{- if $tls.certificateSecret }}, certificate_file: {{ $dir }}/tls.crt, key_file: {{ $dir }}/tls.key{{ end }}}
{{- end -}}

{{/* The Kubernetes API proxy as jobs see it; empty: nobody knows. */}}
{{- define "kas.kubernetesApiUrl" -}}
{{- $path := .Values.ingress.k8sApiPath | trimSuffix "/" -}}
{{- if .Values.standalone.kubernetesApiUrl -}}
{{- .Values.standalone.kubernetesApiUrl -}}
{{- else if .Values.ingress.enabled -}}
{{- printf "https://%s%s" .Values.ingress.hostname $path -}}
{{- else if .Values.gatewayRoute.enabled -}}
{{- printf "https://%s%s" .Values.gatewayRoute.hostname $path -}}
{{- end -}}
{{- end -}}

{{/* The configuration file, customConfig laid over it. */}}
{{- define "kas.config" -}}
{{- $config := include "kas.baseConfig" . | fromYaml -}}
{{- with $config.Error -}}{{- fail (printf "kas: the configuration file cannot be built: %s" .) -}}{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.customConfig)) -}}
{{- end -}}

{{/* What a restart is needed for: kas reads tokens, jobs and projects of the standalone section again by itself. */}}
{{- define "kas.restartConfig" -}}
{{- $config := include "kas.config" . | fromYaml -}}
{{- if $config.standalone -}}
{{- $_ := set $config "standalone" (omit $config.standalone "projects" "agents" "jobs") -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
