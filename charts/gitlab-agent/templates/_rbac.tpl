{{/* cluster-admin, impersonate-only or namespaces. */}}
{{- define "gitlab-agent.profile" -}}
{{- if kindIs "map" .Values.rbac.profile -}}namespaces{{- else -}}{{ default "cluster-admin" .Values.rbac.profile }}{{- end -}}
{{- end -}}

{{/*
Whether the chart makes the account that may impersonate and nothing else: "true" or "". Unless values decide, it is made where the
agent may impersonate anyway; somebody's own choice of rights is not widened behind their back.
*/}}
{{- define "gitlab-agent.impersonationCreate" -}}
{{- $create := .Values.rbac.impersonationAccount.create -}}
{{- if kindIs "bool" $create -}}
{{- if $create -}}true{{- end -}}
{{- else if and .Values.rbac.create (not .Values.rbac.useExistingRole) (ne (include "gitlab-agent.profile" .) "namespaces") -}}
true
{{- end -}}
{{- end -}}

{{/* The name of that account, or "" without one. */}}
{{- define "gitlab-agent.impersonationAccount" -}}
{{- $name := default "" .Values.rbac.impersonationAccount.name -}}
{{- if include "gitlab-agent.impersonationCreate" . -}}
{{- default (printf "%s-impersonator" (include "gitlab-agent.fullname" .)) $name -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- define "gitlab-agent.subject" -}}
kind: ServiceAccount
name: {{ include "gitlab-agent.serviceAccount" . }}
namespace: {{ .Release.Namespace | quote }}
{{- end -}}

{{/* The start of the names of objects without a namespace, where two releases could meet. */}}
{{- define "gitlab-agent.clusterName" -}}
{{ .Release.Namespace }}:{{ include "gitlab-agent.fullname" . }}
{{- end -}}
