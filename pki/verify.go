package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// verifyLeaf asks both models about both directions of mutual TLS.
func verifyLeaf(chain, anchors []*x509.Certificate, at time.Time) error {
	if err := verifyLeafByGo(chain, anchors, at); err != nil {
		return err
	}
	return verifyLeafByProxies(chain, anchors, at)
}

func verifyLeafByGo(chain, anchors []*x509.Certificate, at time.Time) error {
	ways := bothWays[:]
	if alike(chain) && alike(anchors) {
		ways = ways[:1] // the answer is the same, and each costs the signatures anew
	}
	for _, u := range ways {
		if err := verifyGo(chain, anchors, chain[0].DNSNames[0], u.usage, at); err != nil {
			return fmt.Errorf("its leaves are refused as a %s by Go's rules: %w", u.as, err)
		}
	}
	return nil
}

// alike says that none of these certificates is for a server and not for a client, or the
// other way round.
func alike(certs []*x509.Certificate) bool {
	for _, c := range certs {
		free := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
		if !free && slices.Contains(c.ExtKeyUsage, bothWays[0].usage) != slices.Contains(c.ExtKeyUsage, bothWays[1].usage) {
			return false
		}
	}
	return true
}

func verifyLeafByProxies(chain, anchors []*x509.Certificate, at time.Time) error {
	checked := signatures{}
	for _, u := range bothWays {
		if err := checked.verify(chain, anchors, chain[0].DNSNames[0], u.usage, at); err != nil {
			return fmt.Errorf("its leaves are refused as a %s by the proxies' rules: %w", u.as, err)
		}
	}
	return nil
}

// bothWays are the two parts that a workload's certificate plays in mutual TLS.
var bothWays = [...]struct {
	usage x509.ExtKeyUsage
	as    string
}{{x509.ExtKeyUsageServerAuth, "server"}, {x509.ExtKeyUsageClientAuth, "client"}}

// VerifyGo verifies a chain, the leaf first, under a bundle at a time, as
// Linkerd's Go programs do.
func VerifyGo(chain []*x509.Certificate, b Bundle, dnsName string, usage x509.ExtKeyUsage, at time.Time) error {
	return verifyGo(chain, b.anchors, dnsName, usage, at)
}

func verifyGo(chain, anchors []*x509.Certificate, dnsName string, usage x509.ExtKeyUsage, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: dnsName, Roots: pool(anchors), Intermediates: pool(chain[1:]),
		CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
