#!/usr/bin/env bash
# launch/gke.sh COMMAND...: run COMMAND in every pod of a JobSet on GKE; `lm` finds the others itself.
# IMAGE=an image with this checkout as its working directory, PODS=4, CLAIM=a volume claim that all pods
# can write, which they see as /runs. NAME=lm. For chips: SELECT='cloud.google.com/gke-tpu-topology=4x4
# cloud.google.com/gke-tpu-accelerator=tpu-v5-lite-podslice' CHIPS='google.com/tpu=4'. KUBECTL='cat' shows
# the manifest. Pods are started again, as launch/supervise.sh does it, up to RESTARTS=10 times.
# Not run on GKE: only the manifest has been looked at.
set -euo pipefail

if [ $# -eq 0 ] || [ -z "${IMAGE:-}" ] || [ -z "${PODS:-}" ] || [ -z "${CLAIM:-}" ]; then
  echo "usage: IMAGE=image PODS=4 CLAIM=claim launch/gke.sh COMMAND...   e.g. lm train --config=configs/quickstart.py --run=/runs/a" >&2
  exit 2
fi
name=${NAME:-lm} select="" chips=""
for pair in ${SELECT:-}; do select+="${select:+, }${pair%%=*}: \"${pair#*=}\""; done
[ -z "${CHIPS:-}" ] || chips="
                  resources: {limits: {\"${CHIPS%%=*}\": ${CHIPS#*=}}}"
words=""
for word in launch/local.sh "$@"; do word=${word//\\/\\\\}; words+="${words:+, }\"${word//\"/\\\"}\""; done

${KUBECTL:-kubectl apply -f -} <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: $name}
spec:
  failurePolicy: {maxRestarts: ${RESTARTS:-10}}
  replicatedJobs:
    - name: workers
      template:
        spec:
          parallelism: $PODS
          completions: $PODS
          completionMode: Indexed
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              nodeSelector: {$select}
              volumes: [{name: runs, persistentVolumeClaim: {claimName: $CLAIM}}]
              containers:
                - name: lm
                  image: $IMAGE
                  command: [$words]$chips
                  volumeMounts: [{name: runs, mountPath: /runs}]
                  env:
                    - {name: JOBSET_NAME, value: $name}
                    - {name: REPLICATED_JOB_NAME, value: workers}
                    - {name: JAX_PROCESS_COUNT, value: "$PODS"}
YAML
