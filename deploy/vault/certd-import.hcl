# What `certd trust import` may do in Vault, with a short-lived token in
# VAULT_TOKEN: put the key of a trust anchor that was made elsewhere into Vault,
# so that it cannot leave it again. Signing is done under certd-run.hcl.
#
#   vault policy write certd-import deploy/vault/certd-import.hcl
#   vault token create -policy=certd-import -no-default-policy -ttl=15m
#
# The key is sent wrapped under a public key of Vault's. A name that is taken is
# refused by Vault; a further version of a key (import_version) is not granted.

path "certd-transit/wrapping_key" {
  capabilities = ["read"]
}
path "certd-transit/keys/+/import" {
  capabilities = ["update"]
  allowed_parameters = {
    "ciphertext"             = []
    "hash_function"          = ["SHA256"]
    "type"                   = ["ecdsa-p256"]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
    "allow_rotation"         = [false]
  }
}
path "certd-transit/keys/+" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
