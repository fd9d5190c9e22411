package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
)

const (
	largestInput = 16 << 20
	dialTimeout  = 5 * time.Second
)

func (a *App) inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect FILE | - | CLUSTER[/issuer|/bundle|/webhook/NAME] | https://HOST[:PORT]",
		Short: "Explain a certificate, a chain, a bundle or a Secret",
		Long: "Explains certificates: a file or standard input in PEM, DER, or as a Secret or ConfigMap; what a cluster\n" +
			"has; or what a TLS server presents. Private keys are recognised and never shown. Of a webhook it asks the pods,\n" +
			"too, which certificate they serve, and whether it does its work, in a dry run that leaves nothing behind.",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			list := a.completeParts(cmd, word)
			return list, cobra.ShellCompDirectiveDefault // and files
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			if len(args) != 1 {
				return hinted{errors.New("inspect wants one file, -, cluster or https:// address"), api.ErrUsage, cmd.CommandPath() + " --help"}
			}
			input, err := a.inspected(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			doc, err := inspect(args[0], input, a.Now())
			if err != nil {
				return fmt.Errorf("inspect %s: %w", args[0], err)
			}
			if o.machine() {
				return a.document(o, doc)
			}
			a.tell(a.style().inspection(doc)...)
			return nil
		},
	}
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

// inspected fetches what the argument names. A file counts before a cluster
// of the same name.
func (a *App) inspected(ctx context.Context, arg string) ([]byte, error) {
	if arg == "-" {
		return limited(a.Stdin, "standard input")
	}
	if strings.HasPrefix(arg, "https://") {
		return served(ctx, arg)
	}
	f, err := os.Open(arg)
	if err == nil {
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.IsDir() {
			return limited(f, arg)
		}
		// A directory cluster's folder may well bear the cluster's name.
		b, err := a.inspectCluster(ctx, arg)
		if errors.Is(err, api.ErrUsage) {
			return nil, usage("inspect %s: it is a folder, and no cluster", arg)
		}
		return b, err
	}
	if _, part, _ := strings.Cut(arg, "/"); !errors.Is(err, fs.ErrNotExist) && (part == "" || !isPart(part)) {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	b, err := a.inspectCluster(ctx, arg)
	if errors.Is(err, api.ErrUsage) {
		return nil, fmt.Errorf("inspect %s: there is no such file, and %w", arg, err)
	}
	return b, err
}

// isPart says whether a cluster has a part of this name. That a webhook is to
// be named, the cluster says, since it knows the names.
func isPart(part string) bool {
	switch part {
	case "", "issuer", "bundle", "webhook":
		return true
	}
	name, ok := strings.CutPrefix(part, "webhook/")
	return ok && !strings.Contains(name, "/")
}

// inspectCluster fetches what a cluster, or a part of it, holds.
func (a *App) inspectCluster(ctx context.Context, arg string) ([]byte, error) {
	cluster, part, _ := strings.Cut(arg, "/")
	if a.InspectCluster == nil || cluster == "" || !isPart(part) {
		return nil, usage("it does not read as CLUSTER, CLUSTER/issuer, CLUSTER/bundle, CLUSTER/webhook/NAME or https://…")
	}
	return a.InspectCluster(ctx, a.configPath, cluster, part)
}

func limited(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, largestInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("inspect: read %s: %w", name, err)
	case len(b) > largestInput:
		return nil, usage("inspect %s: it is larger than %d MB", name, largestInput>>20)
	}
	return b, nil
}

// served is the chain a TLS server presents, as PEM. It is not verified: it is
// to be looked at, also and first of all when it is wrong.
func served(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return nil, usage("inspect %s: not an address like https://host:port", address)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, hinted{fmt.Errorf("inspect %s: %w", address, err), api.ErrUnavailable, ""}
	}
	defer conn.Close()
	return pki.EncodeCertificates(conn.(*tls.Conn).ConnectionState().PeerCertificates...), nil
}

// inspection is the text of `certd inspect`: at most six lines a certificate
// where the terminal is wide enough, then the verdicts.
func (s style) inspection(doc Inspection) []string {
	var lines []string
	for i, c := range doc.Certificates {
		if i > 0 {
			lines = append(lines, "")
		}
		lines = append(lines, s.certificate(c, doc.Certificates)...)
	}
	if len(doc.Certificates) > 0 {
		lines = append(lines, "")
	}
	verdict := func(j Judgement, yes, no string) {
		m, text := markOK, yes+": "+j.Why
		if !j.Usable {
			m, text = markCritical, no+": "+j.Why
		}
		lines = append(lines, s.wrap(s.mark(m)+" ", "  ", s.clean(text))...)
	}
	if doc.Issuer != nil {
		verdict(*doc.Issuer, "usable as a Linkerd issuer: yes", "usable as a Linkerd issuer: no")
	}
	if b := doc.Bundle; b != nil {
		verdict(b.Judgement, "usable as a Linkerd trust bundle: yes, "+count(b.Anchors, "anchor"), "usable as a Linkerd trust bundle: no")
	}
	asked := false
	for _, v := range doc.Webhooks {
		lines = append(lines, s.webhookVerdict(v)...)
		asked = asked || v.Replicas != nil
	}
	if len(doc.Webhooks) > 0 && !asked {
		lines = append(lines, s.wrap(s.mark(markWaiting)+" ", "  ", "what the webhooks' pods serve was not asked")...)
		lines = append(lines, s.next(s.clean("certd inspect "+strings.TrimSuffix(doc.Source, "/")+"/webhook/"+doc.Webhooks[0].Name))...)
	}
	for _, p := range doc.Problems {
		if doc.Bundle != nil && !doc.Bundle.Usable && strings.HasSuffix(p, doc.Bundle.Why) {
			continue // the verdict says it
		}
		lines = append(lines, s.wrap(s.mark(markWarning)+" ", "  ", s.clean(p))...)
	}
	if doc.PrivateKeys > 0 {
		lines = append(lines, s.mark(markWaiting)+" "+count(doc.PrivateKeys, "private key")+" (not shown)")
	}
	return lines
}

func (s style) certificate(c Inspected, all []Inspected) []string {
	field := func(name, value string) []string { return s.wrap(fmt.Sprintf("  %-8s ", name), "           ", value) }
	head := c.Subject
	if c.Role == "leaf" && len(c.Names) > 0 {
		head = strings.TrimSpace(head + " for " + names(c.Names, 4))
	}
	if len(c.From) > 0 {
		from := names(c.From, 2)
		if cells(head)+cells(from)+20 > s.prose() {
			from = names(c.From, 1)
		}
		head += " (" + from + ")"
	}
	lines := s.wrap(c.Role+"  ", "  ", s.clean(head))
	key := c.KeyType
	if c.CA && c.PathLength != nil {
		key += fmt.Sprintf(", CA, path length %d", *c.PathLength)
	} else if c.CA {
		key += ", CA"
	}
	if c.SKI != "" {
		key += ", SKI " + c.SKI
	}
	lines = append(lines, field("key", key)...)
	left := s.mark(markCritical) + " ended " + s.until(c.NotAfter)
	switch {
	case c.NotBefore.After(s.now):
		left = s.mark(markWarning) + " begins " + s.until(c.NotBefore)
	case c.NotAfter.After(s.now):
		left = span(c.NotAfter.Sub(s.now)) + " left"
	}
	lines = append(lines, field("valid", fmt.Sprintf("%s to %s (%s)", s.when(c.NotBefore), s.when(c.NotAfter), left))...)
	serial := c.Serial
	if c.AKI != "" && c.AKI != c.SKI {
		serial += ", AKI " + c.AKI
	}
	lines = append(lines, field("serial", serial)...)
	lines = append(lines, field("SHA-256", c.SHA256)...)
	return append(lines, field("signed", s.signer(c, all))...)
}

func (s style) signer(c Inspected, all []Inspected) string {
	switch c.SignedBy {
	case c.SHA256:
		return "by itself"
	case "":
		return s.clean("by " + c.Issuer + ", which is not given")
	}
	for _, p := range all {
		if p.SHA256 == c.SignedBy {
			return s.clean("by " + p.Subject + " " + brief(p.SHA256) + ".., the signature holds")
		}
	}
	return ""
}
