package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"certd.internal/rotation"
)

// Where what certd is let in by ends is read from a certificate or a token, in the kubeconfig or
// in a file that something renews.
func TestWhereCredentialsEnd(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	day := func(n int) time.Time { return time.Date(2026, 11, n, 9, 0, 0, 0, time.UTC) }
	cert := func(end time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "certd"}, NotBefore: day(1), NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	token := func(claims jwt.Claims) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.Signed(s).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	until := func(end time.Time) jwt.Claims {
		return jwt.Claims{Subject: "certd", IssuedAt: jwt.NewNumericDate(day(2)), Expiry: jwt.NewNumericDate(end)}
	}
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := file("key", keyPEM)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	for _, row := range []struct {
		sentence string
		user     api.AuthInfo
		want     *rotation.Credential
	}{
		{"a certificate", api.AuthInfo{ClientCertificateData: cert(day(9)), ClientKeyData: keyPEM}, &rotation.Credential{Kind: "client certificate", From: kubeconfig, Begun: day(1), Ends: day(9)}},
		{"key and certificate in one", api.AuthInfo{ClientCertificateData: append(keyPEM[:len(keyPEM):len(keyPEM)], cert(day(9))...), ClientKeyData: keyPEM}, &rotation.Credential{Kind: "client certificate", From: kubeconfig, Begun: day(1), Ends: day(9)}},
		{"a certificate in a file", api.AuthInfo{ClientCertificate: file("crt", cert(day(8))), ClientKey: keyFile}, &rotation.Credential{Kind: "client certificate", From: filepath.Join(dir, "crt"), Begun: day(1), Ends: day(8)}},
		{"a token", api.AuthInfo{Token: token(until(day(7)))}, &rotation.Credential{Kind: "token", From: kubeconfig, Begun: day(2), Ends: day(7)}},
		{"a token in a file", api.AuthInfo{TokenFile: file("token", []byte(token(until(day(6)))+"\n"))}, &rotation.Credential{Kind: "token", From: filepath.Join(dir, "token"), Begun: day(2), Ends: day(6)}},
		{"both: what ends first", api.AuthInfo{Token: token(until(day(7))), ClientCertificateData: cert(day(9)), ClientKeyData: keyPEM}, &rotation.Credential{Kind: "token", From: kubeconfig, Begun: day(2), Ends: day(7)}},
		{"a token of a Secret, which ends never", api.AuthInfo{Token: token(jwt.Claims{Subject: "certd"})}, nil},
		{"a token that is no JWT", api.AuthInfo{Token: "abcdef.0123456789abcdef"}, nil},
		{"nothing at all", api.AuthInfo{}, nil},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			cfg := api.NewConfig()
			cfg.Clusters["c"] = &api.Cluster{Server: "https://127.0.0.1:1"}
			cfg.AuthInfos["u"] = &row.user
			cfg.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
			cfg.CurrentContext = "x"
			if err := clientcmd.WriteToFile(*cfg, kubeconfig); err != nil {
				t.Fatal(err)
			}
			a := Access{File: kubeconfig}
			rc, err := a.restConfig()
			if err != nil {
				t.Fatal(err)
			}
			got := a.credential(rc)
			if (got == nil) != (row.want == nil) || got != nil && (got.Kind != row.want.Kind || got.From != row.want.From || !got.Begun.Equal(row.want.Begun) || !got.Ends.Equal(row.want.Ends)) {
				t.Errorf("%+v, want %+v", got, row.want)
			}
			if row.user.ClientCertificate != "" { // somebody renews it
				file("crt", cert(day(20)))
				if got := a.credential(rc); !got.Ends.Equal(day(20)) {
					t.Errorf("when it was renewed: %+v", got)
				}
			}
		})
	}
}
