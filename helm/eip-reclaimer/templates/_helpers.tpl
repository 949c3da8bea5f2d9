{{/* What the templates share. Those that need more than the root context take a dict with `root` and what they name. */}}

{{- define "eip-reclaimer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 45 | trimSuffix "-" }}
{{- end }}

{{/* The beginning of every object's name; short enough for "-worker-netlink" and a StatefulSet's revision after it. */}}
{{- define "eip-reclaimer.fullname" -}}
{{- $name := include "eip-reclaimer.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels by which pods are selected: root, component. They never change. */}}
{{- define "eip-reclaimer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "eip-reclaimer.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of every object: root, component. */}}
{{- define "eip-reclaimer.labels" -}}
{{ include "eip-reclaimer.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: eip-reclaimer
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod of the program: root, component, part (its values). */}}
{{- define "eip-reclaimer.podMetadata" -}}
labels:
  {{- include "eip-reclaimer.labels" . | nindent 2 }}
  {{- with .part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # Changed settings begin a rolling update.
  checksum/settings: {{ include "eip-reclaimer.settings" .root | sha256sum }}
  {{- with .part.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "eip-reclaimer.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Name of an account: root, account (its values), suffix. */}}
{{- define "eip-reclaimer.serviceAccountName" -}}
{{- if .account.create -}}
{{- .account.name | default (printf "%s%s" (include "eip-reclaimer.fullname" .root) .suffix) }}
{{- else -}}
{{- .account.name | default "default" }}
{{- end }}
{{- end }}

{{/* The settings as variables: camelCase to EIP_RECLAIMER_SNAKE_CASE, lists separated by commas, null left out. */}}
{{- define "eip-reclaimer.settings" -}}
{{- range $key, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
EIP_RECLAIMER_{{ $key | snakecase | upper }}: {{ include "eip-reclaimer.setting" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eip-reclaimer.setting" -}}
{{- if kindIs "slice" . -}}
{{- range $index, $each := . }}{{ if $index }},{{ end }}{{ include "eip-reclaimer.setting" $each }}{{ end }}
{{- else if kindIs "string" . -}}
{{ . }}
{{- else -}}
{{- /* Numbers as JSON writes them: 1000000, where toString would make 1e+06. */}}
{{- toJson . }}
{{- end }}
{{- end }}

{{/* The settings' variables, and that of Redis, for every process of the program. */}}
{{- define "eip-reclaimer.envFrom" -}}
- configMapRef:
    name: {{ include "eip-reclaimer.fullname" . }}-settings
{{- end }}

{{/* How Redis is reached. Passwords come from Secrets: the kubelet puts $(REDIS_PASSWORD) in, so that no object has it. */}}
{{- define "eip-reclaimer.redisEnv" -}}
{{- if .Values.valkey.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.valkey.auth.existingSecret | default (printf "%s-valkey" (include "eip-reclaimer.fullname" .)) }}
      key: {{ .Values.valkey.auth.key }}
- name: EIP_RECLAIMER_REDIS_URL
  value: redis://eip-reclaimer:$(REDIS_PASSWORD)@{{ include "eip-reclaimer.fullname" . }}-valkey:6379/0
{{- else if .Values.redis.urlKey }}
- name: EIP_RECLAIMER_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret }}
      key: {{ .Values.redis.urlKey }}
{{- else }}
{{- $parts := splitList "://" .Values.redis.url }}
{{- $login := "" }}
{{- if and .Values.redis.existingSecret .Values.redis.passwordKey }}
{{- $login = printf "%s:$(REDIS_PASSWORD)@" .Values.redis.username }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret }}
      key: {{ .Values.redis.passwordKey }}
{{- else if .Values.redis.username }}
{{- $login = printf "%s@" .Values.redis.username }}
{{- end }}
{{- $query := "" }}
{{- if .Values.redis.tls.caSecret }}
{{- $query = printf "%sssl_ca_certs=/etc/eip-reclaimer/redis/ca.crt" (contains "?" .Values.redis.url | ternary "&" "?") }}
{{- end }}
- name: EIP_RECLAIMER_REDIS_URL
  value: {{ printf "%s://%s%s%s" (first $parts) $login (last $parts) $query | quote }}
{{- end }}
{{- with .Values.redis.sentinel }}
{{- if and .addresses (not $.Values.valkey.enabled) }}
- name: EIP_RECLAIMER_REDIS_SENTINELS
  value: {{ join "," .addresses | quote }}
- name: EIP_RECLAIMER_REDIS_SENTINEL_MASTER
  value: {{ .master | quote }}
{{- with .username }}
- name: EIP_RECLAIMER_REDIS_SENTINEL_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
- name: EIP_RECLAIMER_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Mounts of every process of the program: root, part. Only /tmp can be written. */}}
{{- define "eip-reclaimer.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if and .root.Values.redis.tls.caSecret (not .root.Values.valkey.enabled) }}
- name: redis-ca
  mountPath: /etc/eip-reclaimer/redis
  readOnly: true
{{- end }}
{{- with .part.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The volumes of these: root, part. */}}
{{- define "eip-reclaimer.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if and .root.Values.redis.tls.caSecret (not .root.Values.valkey.enabled) }}
- name: redis-ca
  secret:
    secretName: {{ .root.Values.redis.tls.caSecret }}
    items:
      - key: {{ .root.Values.redis.tls.caKey }}
        path: ca.crt
{{- end }}
{{- with .part.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where metrics and health are told. */}}
{{- define "eip-reclaimer.httpEnv" -}}
- name: EIP_RECLAIMER_HTTP
  value: {{ printf "%s:%d" .Values.http.host (int .Values.http.port) | quote }}
{{- end }}

{{- define "eip-reclaimer.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Where a pod may run: root, component, part. */}}
{{- define "eip-reclaimer.placement" -}}
# Variables of Services would be taken for settings: EIP_RECLAIMER_DASHBOARD_PORT=tcp://…
enableServiceLinks: false
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Topology spread: root, component, part. */}}
{{- define "eip-reclaimer.spread" -}}
{{- if kindIs "slice" .part.topologySpreadConstraints }}
{{- with .part.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- else }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "eip-reclaimer.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* How long a worker has to end, seconds: the job that it has, and some for Redis and the API: root, part. */}}
{{- define "eip-reclaimer.workerGracePeriod" -}}
{{- .part.terminationGracePeriodSeconds | default (add (.root.Values.settings.jobTimeout | default 40) 20) }}
{{- end }}

{{/* A password that the chart made: that of the cluster where there is one, else a new one: root, name, key. */}}
{{- define "eip-reclaimer.password" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .name }}
{{- $known := dig "data" .key "" ($secret | default dict) }}
{{- $known | default (randAlphaNum 32 | b64enc) }}
{{- end }}

{{/* The namespaces in which gateways' pods live, as a JSON list. */}}
{{- define "eip-reclaimer.gatewayNamespaces" -}}
{{- prepend .Values.rbac.gatewayNamespaces (.Values.settings.gatewayNamespace | default "kube-system") | uniq | sortAlpha | toJson }}
{{- end }}

{{/* "true" where KEDA asks Redis for the queue's length, else nothing. */}}
{{- define "eip-reclaimer.kedaAsksRedis" -}}
{{- with .Values.workers.exec }}
{{- if and .enabled (eq .autoscaling.kind "keda") (eq .autoscaling.keda.trigger "redis") }}true{{ end }}
{{- end }}
{{- end }}
