# What the ceremony (`certd init`) may do in Vault, with a short-lived token in
# VAULT_TOKEN: make the trust anchor's key, so that it can never leave Vault.
# Signing, the anchor's own certificate included, is done under certd-run.hcl.
#
#   vault policy write certd-init deploy/vault/certd-init.hcl
#   vault token create -policy=certd-init -no-default-policy -ttl=30m
#
# A key that exists is answered as if it had just been made, whatever was asked
# for; certd looks first, and checks what it gets.
#
# No required_parameters: they would hold for reading too, and refuse it, also
# in a token that has certd-run.hcl beside this. For the same reason a body
# may leave the two flags out: they are false then.

path "certd-transit/keys/+" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "type"                   = ["ecdsa-p256"]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
  }
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
