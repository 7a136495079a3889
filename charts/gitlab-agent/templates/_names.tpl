{{/* What the chart is called; also the label app.kubernetes.io/name. */}}
{{- define "gitlab-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name that every object starts with. 60 characters leave room for "-v2" in a label. */}}
{{- define "gitlab-agent.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 60 | trimSuffix "-" -}}
{{- else if and (contains $name .Release.Name) (not .Values.decomposedNames) -}}
{{- .Release.Name | trunc 60 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 60 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The suffix changes whenever the selector, which Kubernetes never lets change, does. */}}
{{- define "gitlab-agent.deployment" -}}
{{ include "gitlab-agent.fullname" . }}-v2
{{- end -}}

{{/* A Service's name has 63 characters at most. */}}
{{- define "gitlab-agent.metrics" -}}
{{ include "gitlab-agent.fullname" . | trunc 55 | trimSuffix "-" }}-metrics
{{- end -}}

{{- define "gitlab-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gitlab-agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gitlab-agent.tokenSecret" -}}
{{- default (printf "%s-token" (include "gitlab-agent.fullname" .)) .Values.config.secretName -}}
{{- end -}}

{{- define "gitlab-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gitlab-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The pod of "helm test" has a name label of its own: no Service, PodDisruptionBudget or Deployment may count it. */}}
{{- define "gitlab-agent.testName" -}}
{{ include "gitlab-agent.name" . | trunc 58 | trimSuffix "-" }}-test
{{- end -}}

{{/* The labels of every object. */}}
{{- define "gitlab-agent.labels" -}}
{{ include "gitlab-agent.labelsAnd" (list . dict) }}
{{- end -}}

{{/* The same with more, of one object: (list context more). What selectors look for cannot be overwritten. */}}
{{- define "gitlab-agent.labelsAnd" -}}
{{- $root := first . -}}
{{- $chart := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $selector := include "gitlab-agent.selectorLabels" $root | fromYaml -}}
{{- $more := deepCopy (last . | default dict) -}}
{{- toYaml (merge $selector $more (deepCopy (default dict $root.Values.additionalLabels)) $chart) -}}
{{- end -}}
