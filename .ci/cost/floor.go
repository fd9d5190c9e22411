package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// floorAtOnce is how many writes are under way at one time.
const floorAtOnce = 8

// floor is the least that can be done for an issuer in each of n clusters: a key, a
// certificate signed by a key at hand, and one write, in protobuf, over a connection of the
// cluster's own. It keeps no journal, looks at nothing, and proves nothing: no product, but
// what a product's cost is held against. Each line that it reads has it write all of them
// once, and answer "done".
func floor(ctx context.Context, dir string, n int, in io.Reader, out io.Writer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: now, NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	clients := make([]*kubernetes.Clientset, n)
	for i := range clients {
		rc, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, clusterName(i)))
		if err != nil {
			return err
		}
		rc.QPS = -1
		rc.ContentType = "application/vnd.kubernetes.protobuf"
		if clients[i], err = kubernetes.NewForConfig(rc); err != nil {
			return err
		}
	}
	written := make([]*corev1.Secret, n)
	one := func(i int) error {
		subject, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
		if err != nil {
			return err
		}
		cert := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "identity.linkerd.cluster.local"}, DNSNames: []string{"identity.linkerd.cluster.local"}, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, subject.Public(), key)
		if err != nil {
			return err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(subject)
		if err != nil {
			return err
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "floor", Namespace: namespace(i)}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		}}
		secrets := clients[i].CoreV1().Secrets(namespace(i))
		if written[i] == nil {
			written[i], err = secrets.Create(ctx, secret, metav1.CreateOptions{})
			return err
		}
		secret.ResourceVersion = written[i].ResourceVersion
		written[i], err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		return err
	}
	fmt.Fprintln(out, "done")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		failed := make([]error, n)
		todo := make(chan int)
		var working sync.WaitGroup
		for range floorAtOnce {
			working.Go(func() {
				for i := range todo {
					failed[i] = one(i)
				}
			})
		}
		for i := range n {
			todo <- i
		}
		close(todo)
		working.Wait()
		if err := errors.Join(failed...); err != nil {
			return err
		}
		fmt.Fprintln(out, "done")
	}
	return nil
}
