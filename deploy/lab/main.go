// Command lab starts what certd is tried against: real API servers, the parts
// of a cluster around them, and a real Vault, all on loopback addresses.
//
// It is its own API server, too: "lab kube-apiserver FLAGS" is upstream's
// command, which "lab up" starts as child processes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const usage = `usage:
  lab up [-clusters N] [-dir D] [-schedule CRON]   start a lab; stays in the foreground
  lab install-identity -kubeconfig F               install a simulated linkerd-identity
  lab install-webhooks -kubeconfig F -component C  install simulated webhooks: control-plane, viz, jaeger or custom
  lab remove-webhooks  -kubeconfig F -component C  remove them
"lab COMMAND -h" lists the flags of each.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(64)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "up":
		os.Exit(run(args, up))
	case "install-identity":
		os.Exit(run(args, installIdentity))
	case "install-webhooks":
		os.Exit(run(args, installWebhooks))
	case "remove-webhooks":
		os.Exit(run(args, removeWebhooks))
	case "kube-apiserver":
		os.Args = append([]string{"kube-apiserver"}, args...)
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(64)
	}
}

// run gives command a context that ends with the first SIGINT or SIGTERM, or
// when its terminal goes away, unless that is ignored (nohup).
func run(args []string, command func(ctx context.Context, args []string) error) int {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	if err := command(ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return 0
}
