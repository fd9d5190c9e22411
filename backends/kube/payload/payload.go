// Package payload is what stands in the objects certd manages, the same
// in every kind of cluster: the data keys, the label and the annotations.
package payload

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// The data keys. Linkerd reads one pair or the other, by the issuer scheme it
// was installed with: linkerd.io/tls or kubernetes.io/tls (linkerd2,
// controller/cmd/identity/main.go). Both are written, so that either works.
const (
	BundleKey = "ca-bundle.crt" // in the ConfigMap

	TLSCert = "tls.crt"
	TLSKey  = "tls.key"
	CACert  = "ca.crt"
	CrtPEM  = "crt.pem"
	KeyPEM  = "key.pem"

	// ReloadKey is read by no server: a change of it makes a kubelet swap the
	// files of a Secret whose certificate has not changed.
	ReloadKey = "certd-reload"
)

// Label and annotations that certd keeps on its objects.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "certd"

	AnnotationFleet  = "certd.io/fleet"
	AnnotationSerial = "certd.io/serial"
	AnnotationEpoch  = "certd.io/epoch"

	AnnotationAdopted = "certd.io/adopted"
	AnnotationKeep    = "helm.sh/resource-policy" // without it, an upgrade of a chart that once owned the object deletes it
	Keep              = "keep"

	// AnnotationInject lets cert-manager's cainjector take a caBundle from the
	// Secret itself, where the chart was told so (injectCaFromSecret).
	AnnotationInject = "cert-manager.io/allow-direct-injection"
)

// What a hostile or mistaken cluster may cost.
const (
	// MaxSize bounds one object's data, as Kubernetes does
	// (core/v1 MaxSecretSize).
	MaxSize = 1 << 20
	// maxBlocks bounds how many PEM blocks are parsed.
	maxBlocks = 64
)

// IssuerKeys are the data keys of the issuer that certd owns.
func IssuerKeys() []string { return []string{TLSCert, TLSKey, CACert, CrtPEM, KeyPEM} }

// BundleKeys are the data keys of the bundle that certd owns.
func BundleKeys() []string { return []string{BundleKey} }

// WebhookKeys are the data keys of a webhook's Secret that certd owns.
func WebhookKeys() []string { return []string{TLSCert, TLSKey, CACert, ReloadKey} }

// Keys are the data keys certd owns in an object.
func Keys(object string) []string {
	if object == rotation.IssuerObject {
		return IssuerKeys()
	}
	return BundleKeys()
}

// Bundle returns the data of the bundle object.
func Bundle(b pki.Bundle) map[string][]byte {
	if b.IsZero() { // the data stays as it is
		return map[string][]byte{}
	}
	return map[string][]byte{BundleKey: b.PEM()}
}

// Issuer returns the data of the issuer object. The caller wipes it.
func Issuer(cred pki.Credential, b pki.Bundle) map[string][]byte {
	return map[string][]byte{
		TLSCert: cred.ChainPEM(), TLSKey: cred.KeyPEM(),
		CrtPEM: cred.ChainPEM(), KeyPEM: cred.KeyPEM(),
		CACert: b.PEM(),
	}
}

// Wipe overwrites the private keys in the data of an issuer or a webhook.
func Wipe(data map[string][]byte) {
	clear(data[TLSKey])
	clear(data[KeyPEM])
}

// IssuerData returns the data that a write asks for: the credential it brings
// or, if it brings none, the one that is in the object, proved to be a pair.
// The caller wipes the result.
func IssuerData(w rotation.IssuerWrite, current map[string][]byte) (map[string][]byte, error) {
	cred := w.Credential
	if cred == nil {
		have, err := kept(current, w.Scheme)
		if err != nil {
			return nil, fmt.Errorf("keep the issuer that is in %s: %w: %w", rotation.IssuerObject, err, rotation.ErrChanged)
		}
		defer have.Wipe()
		if w.Missing {
			return completed(w, current), nil
		}
		if len(w.Chain) > 0 {
			if have, err = have.WithChain(w.Chain...); err != nil {
				return nil, fmt.Errorf("give the key that is in %s other certificates: %w: %w", rotation.IssuerObject, err, rotation.ErrChanged)
			}
		}
		cred = &have
	}
	data := Issuer(*cred, w.Bundle)
	switch had := current[ReloadKey]; {
	case w.Reload != "":
		data[ReloadKey] = []byte(w.Reload)
	case w.Credential == nil && len(had) > 0:
		data[ReloadKey] = bytes.Clone(had)
	}
	return data, nil
}

// completed is what stands in an issuer's data, byte for byte, with the names that
// are not there; names of the other scheme follow those that count.
func completed(w rotation.IssuerWrite, current map[string][]byte) map[string][]byte {
	crt, key := pki.IssuerNames(current, w.Scheme)
	data := map[string][]byte{TLSCert: bytes.Clone(current[crt]), TLSKey: bytes.Clone(current[key])}
	if len(current[CrtPEM])+len(current[KeyPEM]) > 0 {
		data[CrtPEM], data[KeyPEM] = bytes.Clone(current[crt]), bytes.Clone(current[key])
	}
	if data[CACert] = bytes.Clone(current[CACert]); len(data[CACert]) == 0 {
		data[CACert] = w.Bundle.PEM()
	}
	if had := current[ReloadKey]; w.Reload != "" {
		data[ReloadKey] = []byte(w.Reload)
	} else if len(had) > 0 {
		data[ReloadKey] = bytes.Clone(had)
	}
	return data
}

// kept finds the pair in an issuer's data, the one that pki.ReadIssuer judged.
func kept(data map[string][]byte, scheme string) (pki.Credential, error) {
	crt, key := pki.IssuerNames(data, scheme)
	return keptPair(data, IssuerKeys(), crt, key)
}

// keptPair reads certificate and key under the names given; keys are all that
// certd owns in the object.
func keptPair(data map[string][]byte, keys []string, crtName, keyName string) (pki.Credential, error) {
	if err := tooMuch(data, keys); err != nil {
		return pki.Credential{}, err
	}
	chain, _ := pki.ReadCertificates(data[crtName])
	if len(chain) == 0 {
		return pki.Credential{}, errors.New("it holds no certificate")
	}
	priv, err := pki.ParsePrivateKey(data[keyName])
	if err != nil {
		return pki.Credential{}, err
	}
	cred, err := pki.NewCredential(priv, chain...)
	if err != nil {
		priv.Wipe()
		return pki.Credential{}, err
	}
	return cred, nil
}

// Webhook returns the data that a write asks for: the credential it brings or,
// if it brings none, the one that is in the Secret, proved to be a pair. A
// write without Reload leaves that key as it is. The caller wipes the result.
func Webhook(w rotation.WebhookWrite, current map[string][]byte) (map[string][]byte, error) {
	cred := w.Credential
	if cred == nil {
		have, err := keptPair(current, WebhookKeys(), TLSCert, TLSKey)
		if err != nil {
			return nil, fmt.Errorf("keep the certificate that is in %s: %w: %w", w.Spec.Secret, err, rotation.ErrChanged)
		}
		defer have.Wipe()
		cred = &have
	}
	data := map[string][]byte{TLSCert: cred.ChainPEM(), TLSKey: cred.KeyPEM(), CACert: w.CAs.PEM()}
	if w.Reload != "" {
		data[ReloadKey] = []byte(w.Reload)
	}
	return data, nil
}

// ReadServing is pki.ReadServing with a bound on what it is given to parse.
func ReadServing(data map[string][]byte) pki.ServingFacts {
	if err := tooMuch(data, WebhookKeys()); err != nil {
		return pki.ServingFacts{Problem: err.Error()}
	}
	return pki.ReadServing(data)
}

// CASet reads a caBundle; of more than certd is willing to look at, nothing.
func CASet(text []byte) pki.CASet {
	if blocks(text) > maxBlocks || len(text) > MaxSize {
		return pki.CASet{}
	}
	return pki.ParseCASet(text)
}

// WebhookMarks are the marks a write leaves on a webhook's Secret.
func WebhookMarks(w rotation.WebhookWrite) rotation.Marks {
	return rotation.Marks{Fleet: w.Fleet, Serial: w.Serial, Epoch: w.Epoch, Keep: true, Label: true}
}

// CABundleMarks are the marks a write leaves on an object that holds a
// caBundle. The object is its chart's: it does not outlive the webhook, and its
// label stays whose it is.
func CABundleMarks(w rotation.CABundleWrite) rotation.Marks {
	return rotation.Marks{Fleet: w.Fleet, Epoch: w.Epoch}
}

// readIssuer is pki.ReadProved with a bound on what it is given to parse.
func readIssuer(data map[string][]byte, id pki.Identity, before *pki.Proof) pki.IssuerFacts {
	if err := tooMuch(data, IssuerKeys()); err != nil {
		return pki.IssuerFacts{Problem: err.Error()}
	}
	return pki.ReadProved(data, id, before)
}

// Text returns what stands under a key, nothing if it is more than certd is
// willing to look at.
func Text(data map[string][]byte, key string) []byte {
	text := data[key]
	if blocks(text) > maxBlocks || len(text) > MaxSize {
		return []byte("too much to be a trust bundle\n")
	}
	return bytes.Clone(text)
}

func tooMuch(data map[string][]byte, keys []string) error {
	size := 0
	for _, key := range keys {
		size += len(data[key])
		if n := blocks(data[key]); n > maxBlocks {
			return fmt.Errorf("%s holds %d PEM blocks, more than %d are not read", key, n, maxBlocks)
		}
	}
	if size > MaxSize {
		return errors.New("holds more than 1 MiB of data")
	}
	return nil
}

func blocks(text []byte) int { return bytes.Count(text, []byte("-----BEGIN ")) }

// Same says whether every key of want stands in have with the same bytes.
func Same(have, want map[string][]byte) bool {
	for key, text := range want {
		if got, ok := have[key]; !ok || !bytes.Equal(got, text) {
			return false
		}
	}
	return true
}

// BundleMarks are the marks a write leaves on the bundle.
func BundleMarks(w rotation.BundleWrite) rotation.Marks {
	return rotation.Marks{Fleet: w.Fleet, Epoch: w.Epoch, Keep: true, Label: true, Adopted: w.Adopted}
}

// IssuerMarks are the marks a write leaves on the issuer.
func IssuerMarks(w rotation.IssuerWrite) rotation.Marks {
	return rotation.Marks{Fleet: w.Fleet, Serial: w.Serial, Epoch: w.Epoch, Keep: true, Label: true}
}

// Annotations spells marks as Kubernetes annotations.
func Annotations(m rotation.Marks) map[string]string {
	a := map[string]string{AnnotationEpoch: strconv.FormatUint(m.Epoch, 10)}
	if m.Fleet != "" {
		a[AnnotationFleet] = m.Fleet
	}
	if m.Serial != "" {
		a[AnnotationSerial] = m.Serial
	}
	if m.Keep {
		a[AnnotationKeep] = Keep
	}
	if m.Adopted != "" {
		a[AnnotationAdopted] = m.Adopted
	}
	return a
}

// Labels spells marks as Kubernetes labels.
func Labels(m rotation.Marks) map[string]string {
	if !m.Label {
		return nil
	}
	return map[string]string{LabelManagedBy: ManagedBy}
}

// ReadMarks reads marks back. An epoch that is no number counts as none.
func ReadMarks(labels, annotations map[string]string) rotation.Marks {
	epoch, err := strconv.ParseUint(annotations[AnnotationEpoch], 10, 64)
	if err != nil {
		epoch = 0
	}
	return rotation.Marks{
		Fleet:  annotations[AnnotationFleet],
		Serial: annotations[AnnotationSerial],
		Epoch:  epoch,
		Keep:   annotations[AnnotationKeep] == Keep,
		Label:  labels[LabelManagedBy] == ManagedBy,

		Adopted: annotations[AnnotationAdopted],
	}
}
