# What `certd run` may do in Vault: sign with the trust anchor's keys, and make
# and use the keys of the webhook CAs. Nothing else.
#
# The mounts are certd's defaults and hold nothing but certd's keys; change
# them here if keys.vault.transit names others. "+" is exactly one segment of
# a path, so it never reaches keys/NAME/config, keys/NAME/rotate or
# sign/NAME/HASH. A wildcard "*" would, and a deny beside it would not help.
#
#   vault policy write certd-run deploy/vault/certd-run.hcl

# One digest at a time, made by certd, with a named version of the key. Without
# key_version Vault signs with the newest one.
path "certd-transit/sign/+" {
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

# The flags of a key, which certd reads before each use.
path "certd-transit/keys/+" {
  capabilities = ["read"]
}

# The webhook CAs, one per cluster: clusters join while certd runs, so it makes
# their keys itself, of this kind alone. (No required_parameters: they would
# hold for reading too, and refuse it.)
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

# certd's own token, spelt out so that it needs no default policy.
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
