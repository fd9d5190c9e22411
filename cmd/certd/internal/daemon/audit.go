package daemon

import (
	"cmp"
	"fmt"
	"strings"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/audit"
)

// AuditKeys says which requests in Vault's audit log sign with the fleet's keys.
func (d Daemon) AuditKeys(path string) (keys audit.Keys, err error) {
	c, err := d.Load(path)
	if err != nil {
		return keys, err
	}
	v := c.Keys.Vault
	if v == nil {
		return keys, fmt.Errorf("the keys of fleet %s are not in Vault: no audit log of Vault's has their signatures: %w", c.Name, api.ErrUsage)
	}
	if t := v.Transit; t != nil {
		keys.Prefixes = append(keys.Prefixes, strings.Trim(t.Mount, "/")+"/sign/"+t.KeyPrefix+"-anchor-")
	}
	if p := v.PKI; p != nil {
		mount := strings.Trim(p.Mount, "/")
		keys.Prefixes = append(keys.Prefixes, mount+"/issuer/"+cmp.Or(p.Issuer, "default")+"/sign-intermediate", mount+"/root/sign-intermediate")
	}
	keys.Prefixes = append(keys.Prefixes, strings.Trim(v.Webhooks.Mount, "/")+"/sign/"+v.Webhooks.KeyPrefix+"-webhook-")
	return keys, nil
}
