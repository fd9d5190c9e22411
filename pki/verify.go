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
	checked := signatures{}
	if err := verifyLeafByGo(chain, anchors, at, checked); err != nil {
		return err
	}
	return checked.verifyLeaf(chain, anchors, at)
}

// verifyLeafByGo notes the signatures that Go has checked.
func verifyLeafByGo(chain, anchors []*x509.Certificate, at time.Time, checked signatures) error {
	ways := bothWays[:]
	if alike(chain) && alike(anchors) {
		ways = ways[:1] // the answer is the same, and each costs the signatures anew
	}
	for _, u := range ways {
		paths, err := pathsByGo(chain, anchors, chain[0].DNSNames[0], u.usage, at)
		if err != nil {
			return fmt.Errorf("its leaves are refused as a %s by Go's rules: %w", u.as, err)
		}
		checked.note(paths)
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
	return signatures{}.verifyLeaf(chain, anchors, at)
}

func (s signatures) verifyLeaf(chain, anchors []*x509.Certificate, at time.Time) error {
	for _, u := range bothWays {
		if err := s.verify(chain, anchors, chain[0].DNSNames[0], u.usage, at); err != nil {
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
	_, err := pathsByGo(chain, anchors, dnsName, usage, at)
	return err
}

// pathsByGo are all ways from the leaf to an anchor; each certificate on one is signed by the
// next.
func pathsByGo(chain, anchors []*x509.Certificate, dnsName string, usage x509.ExtKeyUsage, at time.Time) ([][]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return chain[0].Verify(x509.VerifyOptions{DNSName: dnsName, Roots: pool(anchors), Intermediates: pool(chain[1:]),
		CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
