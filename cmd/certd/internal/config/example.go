package config

// Example returns a commented configuration of everything that works.
func Example() []byte {
	return []byte(`# What certd looks after, and how. Check it with: certd config validate
# Paths are relative to the folder of this file. Durations: 10y 90d 36h 30m 45s 1d12h (a year is 365 days).
apiVersion: certd/v1
kind: Fleet
name: acme-mesh                   # in the trust anchor's subject, and on every object certd manages
stateDir: /var/lib/certd          # the journal; nothing secret

keys:                             # exactly one of vault, file, kms
  vault:
    address: https://vault.example:8200               # $VAULT_ADDR, $VAULT_NAMESPACE and $VAULT_CACERT fill what is left out
    # namespace: team-mesh
    caFile: /etc/certd/vault-ca.pem
    auth:                         # exactly one of these
      appRole: {roleID: certd, secretIDFrom: {file: /etc/certd/secret-id}}
      # token: {env: CERTD_VAULT_TOKEN}               # a secret is {file: PATH}, {env: NAME} or {credential: NAME} (systemd)
      # tokenFile: /run/vault-agent/token             # read afresh at each login
      # kubernetes: {role: certd, mount: kubernetes, tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}
      # cert: {certFile: /etc/certd/tls.crt, keyFile: /etc/certd/tls.key, role: certd, mount: cert}
      # jwt: {role: certd, tokenFrom: {file: /run/spire/jwt}, mount: jwt}
    transit: {mount: certd-transit, webhookMount: certd-transit-webhooks, keyPrefix: acme-mesh}   # keys: acme-mesh-anchor-1, …
    # pki: {mount: pki-root, issuer: default}         # instead of transit's mount: issuers from an existing root of the PKI engine
    # mirror: {mount: secret, path: certd/acme-mesh}  # KV v2: what a lost journal is rebuilt from, and what stops a second daemon
  # file: {dir: /var/lib/certd/keys, passphraseFrom: {file: /etc/certd/passphrase}}
  # kms: {uri: "pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=certd?pin-source=/etc/certd/pin"}

trust:
  lifetime: 10y
  renewBefore: 2y                 # from then on it is renewed: new dates for the same key, no workload restarted
  onDue: renew                    # or ask: status says so, and certd trust renew does it
  restartWorkloads: ask           # or auto, while the anchor is changed; needs deploy/rbac/certd-restart-workloads.yaml
  restartsAtOnce: 1               # with auto, how many workloads of a cluster; the first goes ahead alone

approvals:
  retire: 1                       # or 2: a change retires the old anchor when a second person approves (certd trust approve)

defaults:                         # what holds in every cluster; groups override it, then the cluster
  timeZone: UTC
  linkerd:
    namespace: linkerd
    createNamespace: false        # true: create the namespace if it is missing
    trustDomain: cluster.local
    leafLifetime: 24h             # lower bounds: what a running identity is told counts if it is larger
    clockSkew: 20s
    clockError: 5m                # how far clocks may be off all the same, while the trust anchor is changed
  repair: 12h                     # how long an outage of Vault, a cluster or certd must be survivable
  issuer:
    lifetime: 7d
    renewBefore: 84h              # with no more than this left, certd renews at any hour
    schedule: "0 3 * * *"         # when renewing is wanted; cron, in timeZone
    rotate: when-due              # or every-firing
    backdate: 10m                 # how far notBefore lies in the past
    spread: 30m                   # firings are delayed by up to this, each cluster by its own; 0s for none
  webhooks:                       # of Linkerd, viz (tap included) and jaeger
    manage: auto                  # look after those that are found; none: leave them alone
    lifetime: 30d
    renewBefore: 15d
    schedule: "30 3 * * *"
    caLifetime: 2y                # of the CA over them, one in each cluster
    caRenewBefore: 180d
    backdate: 10m
    spread: 30m
    settle: 30s                   # from a change of a caBundle until every API server goes by it
    projection: 3m                # from a change of a Secret until every kubelet shows it to its pods
    probeEvery: 5m                # how often it is looked what is really served
    probeNamespace: certd         # where the dry runs for that are made
    # extra: [{name: quota, secret: {namespace: quota, name: quota-tls}, dnsNames: [quota.quota.svc], objects: [{kind: ValidatingWebhookConfiguration, name: quota}]}]
  # foreignAnchors: [{name: partner, file: /etc/certd/partner.pem}]     # trusted besides certd's own

windows:                          # for restarts while the trust anchor is changed; clusters name theirs
  nights: {opens: "0 22 * * MON-THU", for: 8h}
freezes: []                       # nothing is restarted on these days
# freezes: [{name: year-end, from: 2026-12-18, to: 2027-01-04, reason: change freeze}]

groups:                           # by label, as in kubectl -l; the later group wins
  quiet:                          # no 60-day warnings in linkerd check
    select: "tier=prod"
    issuer: {lifetime: 90d, renewBefore: 61d}
    webhooks: {lifetime: 90d, renewBefore: 61d}
    windows: [nights]

clusters:
  - name: prod-eu-1
    labels: {tier: prod, region: eu}
    timeZone: Europe/Berlin
    kubeconfig: {file: /etc/certd/kube/prod-eu-1, context: ""}
    # knownAs: eu                 # what the Links of other clusters call it, if that is another name
    # adopt: true                 # take over what runs there, if certd did not make it: as certd adopt does
  - {name: home, inCluster: true}                     # the cluster certd runs in
  - {name: vm-pool, directory: /srv/certd/vm-pool}    # a folder of files instead of a cluster
# clustersDir: clusters.d         # more clusters, one in each .yaml file

# backup:                         # copies of the journal, made by the daemon and verified; best on another disk
#   dir: /backup/certd
#   schedule: "0 4 * * *"         # cron, in timeZone
#   timeZone: UTC
#   keep: 7                       # older ones are deleted

# leaderElection:                 # several certd, each with a stateDir of its own, of which one works; needs keys.vault.mirror
#   lease: {namespace: certd, name: certd}            # in the cluster certd runs in
#   cluster: prod-eu-1            # or in this one of clusters
#   leaseDuration: 15s
#   renewDeadline: 10s
#   retryPeriod: 2s

server:
  socket: /run/certd/certd.sock   # admin socket; its file mode says who may connect
  listen: 127.0.0.1:9843          # read only: /metrics, /livez, /readyz, /api/v1/status, /bundle.pem; left out: nowhere
log:
  level: info                     # debug, info, warn or error
  # format: json                  # or text; left out: text on a terminal, JSON elsewhere

# notify:                         # who is told of findings, and of the stages of a change of the trust anchor
#   after: 1m                     # how long a finding has to last before it is told of, and to be gone before that is
#   giveUp: 1d                    # how long a message is tried
#   receivers:                    # each is exactly one of slack, pagerDuty, alertmanager, webhook
#     ops: {slack: {urlFrom: {file: /etc/certd/slack-url}}, perMinute: 10}    # more become one summary; also proxy: URL
#     pager: {pagerDuty: {routingKeyFrom: {credential: pagerduty}, url: "https://events.pagerduty.com"}}
#     soc: {webhook: {url: "https://soc.example/in", secretFrom: {file: /etc/certd/soc-secret}}}     # also caFile: soc-ca.pem
#     am:                         # findings only; better: have Prometheus scrape certd
#       alertmanager: {url: "http://alertmanager.monitoring.svc:9093", basicAuth: {username: certd, passwordFrom: {env: AM_PASSWORD}}}   # or bearerTokenFrom: {file: PATH}
#       allowPrivate: true        # its name may lead to an address that is not public
#       allowHTTP: true           # what it is told may be read on the way
#   routes:                       # the first that matches decides, unless it has continue: true
#     - {match: {finding: [ProxiesStale], labels: "tier=dev"}, receivers: []}
#     - {match: {event: [finding], severity: [critical]}, receivers: [pager], continue: true}
#     - {match: {cluster: [prod-eu-1]}, receivers: [soc]}
#   default: [ops, am]            # of what no route matches
#   digest: {schedule: "0 9 * * MON", timeZone: UTC, receivers: [ops]}
`)
}

// Dev returns the configuration that `certd run --dev` writes: two folders for
// clusters, keys in files, and lifetimes short enough to watch. It belongs
// into the folder that also holds its passphrase file.
func Dev() []byte {
	return []byte(`# Written by "certd run --dev": a fleet to try certd with. Change it as you like.
apiVersion: certd/v1
kind: Fleet
name: dev
stateDir: state

keys:
  file: {dir: keys, passphraseFrom: {file: passphrase}}   # Vault in earnest: certd config example

trust: {lifetime: 10y, renewBefore: 2y}

defaults:
  linkerd: {createNamespace: true, leafLifetime: 5m, clockError: 5s}
  repair: 1m
  issuer:
    lifetime: 30m
    renewBefore: 10m
    schedule: "* * * * *"
    rotate: every-firing          # when-due renews as late as is safe
    spread: 0s

clusters:                         # folders instead of clusters
  - {name: east, directory: clusters/east}
  - {name: west, directory: clusters/west}

server: {socket: certd.sock}
`)
}
