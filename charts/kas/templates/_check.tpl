{{/* Refuses values that contradict each other. Every rendering goes through it, and it looks at the configuration file as kas will see it,
     customConfig included. */}}
{{- define "kas.check" -}}
{{- $v := .Values -}}
{{- if and $v.gitlab.address $v.standalone.enabled -}}
{{- fail "kas: set either gitlab.address (beside a GitLab) or standalone.enabled, not both" -}}
{{- end -}}
{{- if not (or $v.gitlab.address $v.standalone.enabled) -}}
{{- fail "kas: set gitlab.address (beside a GitLab) or standalone.enabled=true" -}}
{{- end -}}
{{- if lt (int $v.maxReplicas) (int $v.minReplicas) -}}
{{- fail "kas: maxReplicas must not be less than minReplicas" -}}
{{- end -}}
{{- $config := include "kas.config" . | fromYaml -}}
{{- if not $config.redis -}}
{{- if $v.gitlab.address -}}
{{- fail "kas: beside a GitLab kas needs Redis: set redis.enabled=true and where it is" -}}
{{- end -}}
{{- if gt (int $v.maxReplicas) 1 -}}
{{- fail "kas: standalone without Redis kas must run single: set minReplicas=1 and maxReplicas=1, or redis.enabled=true (without Redis an agent of one replica is not found by the others)" -}}
{{- end -}}
{{- end -}}
{{- include "kas.checkRedis" . -}}
{{- include "kas.checkDrain" . -}}
{{- include "kas.checkWays" . -}}
{{- if and $v.standalone.enabled (not (or $v.standalone.repositoriesVolume $v.extraVolumeMounts)) -}}
{{- fail "kas: standalone needs git repositories: set standalone.repositoriesVolume, for example to {persistentVolumeClaim: {claimName: git}}" -}}
{{- end -}}
{{- end -}}

{{- define "kas.checkRedis" -}}
{{- if .Values.redis.enabled -}}
{{- $r := .Values.redis -}}
{{- $ways := 0 -}}
{{- if $r.server.address -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if $r.sentinel.masterName -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if $r.cluster.addresses -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if ne (int $ways) 1 -}}
{{- fail "kas: set exactly one of redis.server.address, redis.sentinel.masterName (with addresses) and redis.cluster.addresses" -}}
{{- end -}}
{{- if and $r.sentinel.masterName (not $r.sentinel.addresses) -}}
{{- fail "kas: redis.sentinel.addresses must name the sentinels" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kas.checkDrain" -}}
{{- $need := add (int .Values.drain.listenGracePeriodSeconds) (int .Values.drain.shutdownGracePeriodSeconds) 20 -}}
{{- if lt (int .Values.deployment.terminationGracePeriodSeconds) (int $need) -}}
{{- fail (printf "kas: deployment.terminationGracePeriodSeconds is %d, and draining may take %d (drain.listenGracePeriodSeconds + drain.shutdownGracePeriodSeconds + 20): requests would be cut" (int .Values.deployment.terminationGracePeriodSeconds) (int $need)) -}}
{{- end -}}
{{- end -}}

{{- define "kas.checkWays" -}}
{{- $v := .Values -}}
{{- if and $v.tls.enabled (not $v.tls.secretName) -}}
{{- fail "kas: tls.enabled needs tls.secretName, a Secret of type kubernetes.io/tls" -}}
{{- end -}}
{{- if and $v.ingress.enabled $v.ingress.grpc.enabled (ne $v.ingress.provider "nginx") -}}
{{- fail "kas: ingress.grpc.enabled knows the annotations of nginx only; with another ingress.provider make that Ingress by extraManifests" -}}
{{- end -}}
{{- if $v.gatewayRoute.enabled -}}
{{- if not $v.gatewayRoute.parentRefs -}}
{{- fail "kas: gatewayRoute.parentRefs must name the Gateway, for example [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- if and $v.gatewayRoute.grpc.enabled (or (not $v.gatewayRoute.grpc.hostname) (eq $v.gatewayRoute.grpc.hostname $v.gatewayRoute.hostname)) -}}
{{- fail "kas: gatewayRoute.grpc.hostname must be another than gatewayRoute.hostname: a Gateway refuses a GRPCRoute and an HTTPRoute of the same host" -}}
{{- end -}}
{{- end -}}
{{- end -}}
