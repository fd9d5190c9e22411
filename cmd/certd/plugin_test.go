package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubectl certd finds certd's pod and runs certd's command there, with its standard
// streams and its exit code. kubectl is a stand-in that says what it was asked.
func TestThePluginRunsCommandsInThePod(t *testing.T) {
	bin := t.TempDir()
	const kubectl = `#!/bin/sh
case "$*" in
*"get pods"*) printf "$PODS" ;;
*) printf '%s\n' "$*"; cat; exit 2 ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o755); err != nil {
		t.Fatal(err)
	}
	plugin := func(stdin string, env []string, args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command("../../deploy/kubectl/kubectl-certd", args...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PODS=pod/certd-0\\n"}, env...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
	}
	for name, row := range map[string]struct {
		stdin string
		env   []string
		args  string
		says  string
		code  int
	}{
		"a command":                {args: "status -o short", says: "-n certd exec -i -c certd pod/certd-0 -- certd status -o short", code: 2},
		"another namespace":        {args: "-n pki --context eu status", says: "-n pki --context eu exec -i -c certd pod/certd-0 -- certd status", code: 2},
		"the namespace as usual":   {env: []string{"CERTD_NAMESPACE=pki"}, args: "plan", says: "-n pki exec -i -c certd pod/certd-0 -- certd plan", code: 2},
		"certd's own -n":           {args: "history -n 3", says: "-n certd exec -i -c certd pod/certd-0 -- certd history -n 3", code: 2},
		"standard input":           {stdin: "PEM", args: "inspect -", says: "-n certd exec -i -c certd pod/certd-0 -- certd inspect -\nPEM", code: 2},
		"the ceremony":             {env: []string{"VAULT_TOKEN=hvs.x"}, args: "init --yes", says: "-n certd exec -i -c certd pod/certd-0 -- certd init --yes --token-stdin\nhvs.x", code: 2},
		"a change":                 {env: []string{"VAULT_TOKEN=hvs.x"}, args: "trust rotate --yes", says: "certd trust rotate --yes --token-stdin\nhvs.x", code: 2},
		"a token for nothing":      {env: []string{"VAULT_TOKEN=hvs.x"}, args: "trust list", says: "-n certd exec -i -c certd pod/certd-0 -- certd trust list", code: 2},
		"no pod":                   {env: []string{"PODS="}, args: "status", says: "no pod of certd runs in namespace certd", code: 69},
		"two pods":                 {env: []string{"PODS=pod/certd-0\\npod/other-0\\n"}, args: "status", says: "several pods", code: 64},
		"nothing to do":            {says: "kubectl certd [-n NAMESPACE]", code: 64},
		"a flag that it knows not": {args: "--all status", says: "kubectl certd [-n NAMESPACE]", code: 64},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := plugin(row.stdin, row.env, strings.Fields(row.args)...)
			if code != row.code || !strings.Contains(out, row.says) {
				t.Errorf("exit %d, want %d; %q, want %q", code, row.code, out, row.says)
			}
			if name == "a token for nothing" && strings.Contains(out, "hvs.") {
				t.Error("the token went along")
			}
		})
	}
}
