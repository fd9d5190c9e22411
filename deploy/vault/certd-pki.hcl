# What `certd run` may do when Vault's PKI engine signs (keys.vault.pki),
# instead of certd-run.hcl. A stolen token gets issuers of this name, path
# length 0 and this lifetime, and certificates of the clusters' webhooks;
# nothing else.
#
# Set, per fleet: the mounts, the name (identity.NAMESPACE.TRUST-DOMAIN; one
# more for each trust domain), and each issuer.lifetime in use.
# exclude_cn_from_sans is left out on purpose: the common name has to become
# the DNS name as well, which the engine does by itself. not_before_duration is
# free: certd asks for less than issuer.backdate while the CA itself is younger.
#
# certd writes durations as whole hours, minutes or seconds ("168h", "30m"),
# whichever is shortest. It asks for less when the CA ends sooner, and when two
# issuers of a cluster would end within the same minute; to let it, allow more
# values of ttl. max_path_length is text: Vault never finds a number equal to an
# allowed value.
#
#   vault policy write certd-pki deploy/vault/certd-pki.hcl

path "pki-root/issuer/+/sign-intermediate" {
  capabilities        = ["update"]
  required_parameters = ["csr", "common_name", "ttl", "max_path_length"]
  allowed_parameters = {
    "csr"                 = []
    "common_name"         = ["identity.linkerd.cluster.local"]
    "ttl"                 = ["168h"]
    "max_path_length"     = ["0"]
    "not_before_duration" = []
    "format"              = ["pem"]
  }
}

path "pki-root/issuer/+/json" {
  capabilities = ["read"]
}

# The webhook CAs, one per cluster, are keys of the Transit engine here too
# (keys.vault.transit.webhookMount, a mount of its own). Clusters join while
# certd runs, so it makes their keys itself, of this kind alone. (No
# required_parameters: they would hold for reading too, and refuse it.)
path "certd-transit-webhooks/sign/+" {
  capabilities        = ["update"]
  required_parameters = ["input", "prehashed", "key_version"]
  allowed_parameters = {
    "input"                = []
    "prehashed"            = [true]
    "hash_algorithm"       = ["sha2-256"]
    "marshaling_algorithm" = ["asn1"]
    "key_version"          = []
  }
}
path "certd-transit-webhooks/keys/+" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "type"                   = ["ecdsa-p256"]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
  }
}

# The mirror of certd's journal; take the # away where keys.vault.mirror is set,
# and put its mount and path here. certd deletes nothing there.
# path "secret/data/certd/FLEET" {
#   capabilities = ["create", "update", "read"]
# }
# path "secret/metadata/certd/FLEET" {
#   capabilities = ["read"]
# }

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# Whether an audit device is on, for `certd check` to see; it goes without. "sudo" is
# what Vault asks for this list, and here it reaches no further: enabling and
# disabling a device is another path.
# path "sys/audit" {
#   capabilities = ["read", "sudo"]
# }
