{{- define "lockd.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "lockd.selector" -}}
app.kubernetes.io/name: lockd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lockd.labels" -}}
{{ include "lockd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "lockd.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* What both kinds of replica have in common. */ -}}
{{- define "lockd.pod" -}}
metadata:
  labels:
    {{- include "lockd.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "lockd.name" . }}
  automountServiceAccountToken: false
  # The drain of 10 s, and some.
  terminationGracePeriodSeconds: 30
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- range . }}
    - name: {{ . }}
  {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and .Values.topologySpread.enabled (eq .Values.store.type "etcd") }}
  topologySpreadConstraints:
    {{- range .Values.topologySpread.topologyKeys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "lockd.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  containers:
    - name: lockd
      image: {{ include "lockd.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        - { name: LOCKD_LISTEN, value: "0.0.0.0:7420" }
        - { name: LOCKD_HTTP_LISTEN, value: "0.0.0.0:7421" }
        - { name: LOCKD_LOG, value: {{ .Values.log | quote }} }
        - { name: LOCKD_LOG_FORMAT, value: json }
        - name: LOCKD_NAME
          valueFrom: { fieldRef: { fieldPath: metadata.name } }
        - { name: LOCKD_STORE, value: {{ .Values.store.type }} }
        {{- if eq .Values.store.type "embedded" }}
        - { name: LOCKD_DATA_DIR, value: /data }
        {{- else }}
        {{- with .Values.store.etcd }}
        - { name: LOCKD_ETCD_ENDPOINTS, value: {{ join "," .endpoints | quote }} }
        - { name: LOCKD_ETCD_PREFIX, value: {{ .prefix | quote }} }
        {{- if .tls }}
        - { name: LOCKD_ETCD_CA, value: /etcd/ca.crt }
        - { name: LOCKD_ETCD_CERT, value: /etcd/tls.crt }
        - { name: LOCKD_ETCD_KEY, value: /etcd/tls.key }
        {{- end }}
        {{- if .auth }}
        - name: LOCKD_ETCD_USER
          valueFrom: { secretKeyRef: { name: {{ .existingSecret }}, key: user } }
        - { name: LOCKD_ETCD_PASSWORD_FILE, value: /etcd/password }
        {{- end }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - { name: grpc, containerPort: 7420 }
        - { name: http, containerPort: 7421 }
      startupProbe:
        httpGet: { path: /startupz, port: http }
        failureThreshold: 60
        periodSeconds: 1
      readinessProbe:
        httpGet: { path: /readyz, port: http }
        periodSeconds: 2
      livenessProbe:
        httpGet: { path: /livez, port: http }
        periodSeconds: 10
        failureThreshold: 6
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      {{- with .Values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- if eq .Values.store.type "embedded" }}
        - { name: data, mountPath: /data }
        {{- else if .Values.store.etcd.existingSecret }}
        - { name: etcd, mountPath: /etcd, readOnly: true }
        {{- else }}
        []
        {{- end }}
  {{- if and (eq .Values.store.type "etcd") .Values.store.etcd.existingSecret }}
  volumes:
    - name: etcd
      secret: { secretName: {{ .Values.store.etcd.existingSecret }}, defaultMode: 0440 }
  {{- end }}
{{- end -}}
