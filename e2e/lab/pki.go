package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// nodeKeys are the files that the node gets into /etc/kubernetes, by name.
type nodeKeys map[string][]byte

func (c *cluster) key(name string) string { return filepath.Join(c.dir, "pki", name) }

// writeKeys makes the cluster's certificate authority and all that it signs, and writes what is needed here. Every certificate
// can be verified, the kubelet's too, so that what runs in the cluster need not skip that.
func (c *cluster) writeKeys() (nodeKeys, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	admin, err := ca.sign(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	apiserver, err := ca.sign(pkix.Name{CommonName: "kube-apiserver"}, "127.0.0.1", hostAddress, serviceAddress,
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return nil, err
	}
	kubelet, err := ca.sign(pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}, nodeAddress, nodeName)
	if err != nil {
		return nil, err
	}
	serviceAccount, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serviceAccountKey, err := privatePEM(serviceAccount)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(serviceAccount.Public())
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.key(""), 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"ca.crt":             ca.certPEM,
		"admin.crt":          admin.cert,
		"admin.key":          admin.key,
		"admin.kubeconfig":   ca.kubeconfig("https://"+hostAddress, admin),
		"apiserver.crt":      apiserver.cert,
		"apiserver.key":      apiserver.key,
		"serviceaccount.key": serviceAccountKey,
		"serviceaccount.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(c.key(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return nodeKeys{
		"ca.crt":      ca.certPEM,
		"kubelet.crt": kubelet.cert,
		"kubelet.key": kubelet.key,
		"kubeconfig":  ca.kubeconfig("https://"+hostAddress, kubelet),
	}, nil
}

// authority is a certificate authority.
type authority struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
}

// pair is a certificate and its private key, both PEM.
type pair struct{ cert, key []byte }

func newAuthority() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := template(pkix.Name{CommonName: "lab"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authority{cert: cert, key: key, certPEM: certPEM(der)}, err
}

// sign makes a certificate with which somebody is a client, and a server under the given addresses and names.
func (a authority) sign(subject pkix.Name, hosts ...string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	template := template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if len(hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	keyPEM, err := privatePEM(key)
	return pair{cert: certPEM(der), key: keyPEM}, err
}

func template(subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour), // the node's clock is its own
		NotAfter:     now.AddDate(1, 0, 0),
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func privatePEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// kubeconfig is the configuration of a client of the API server, complete in one file.
func (a authority) kubeconfig(server string, client pair) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Config
clusters:
  - name: lab
    cluster:
      server: %s
      certificate-authority-data: %s
users:
  - name: lab
    user:
      client-certificate-data: %s
      client-key-data: %s
contexts:
  - name: lab
    context: {cluster: lab, user: lab}
current-context: lab
`, server, encode(a.certPEM), encode(client.cert), encode(client.key))
	return b.Bytes()
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
