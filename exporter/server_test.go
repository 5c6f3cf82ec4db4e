package exporter

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve runs a server until the test ends, or stop is called.
func serve(t *testing.T, s *Server, h http.Handler) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, h) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-ended
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	address := taken.Addr().String()
	broken := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(broken, []byte("tls_server_config: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, address, config string
		want                  []string
	}{
		{"a port in use", address, "", []string{address, "in use", "--web.listen-address"}},
		{"no port", "127.0.0.1", "", []string{"--web.listen-address 127.0.0.1", "missing port"}},
		{"no configuration", "127.0.0.1:0", "/no/such/web.yml", []string{"--web.config.file /no/such/web.yml"}},
		{"a broken one", "127.0.0.1:0", broken, []string{"--web.config.file", broken}},
	} {
		_, err := Listen([]string{"127.0.0.1:0", tt.address}, tt.config, quiet())
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", tt.name, err, want)
			}
		}
	}
}

// Requests that are under way are answered; new ones are not.
func TestGracefulStop(t *testing.T) {
	s, err := Listen([]string{"127.0.0.1:0", "127.0.0.1:0"}, "", quiet())
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	stop := serve(t, s, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		fmt.Fprint(w, "done")
	}))
	body := make(chan string)
	go func() {
		resp, err := http.Get("http://" + s.listeners[1].Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		body <- string(b)
	}()
	<-asked
	time.AfterFunc(100*time.Millisecond, func() { close(answer) })
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if got := <-body; got != "done" {
		t.Errorf("the request under way got %q", got)
	}
	for _, l := range s.listeners {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			_ = c.Close()
			t.Errorf("%s still answers", l.Addr())
		}
	}
}

func TestTLSAndPasswords(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "web.yml")
	yaml := fmt.Sprintf("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\nbasic_auth_users:\n  prometheus: %s\n", hash)
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two addresses, each of which must ask.
	s, err := Listen([]string{"127.0.0.1:0", "127.0.0.1:0"}, config, quiet())
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "in") }))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	for _, l := range s.listeners {
		for _, tt := range []struct {
			password string
			status   int
		}{{"secret", 200}, {"wrong", 401}, {"", 401}} {
			req, err := http.NewRequest(http.MethodGet, "https://"+l.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.password != "" {
				req.SetBasicAuth("prometheus", tt.password)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("password %q: %s, want %d", tt.password, resp.Status, tt.status)
			}
		}
	}
}

// certificate writes a self-signed one for 127.0.0.1 and returns the pool that trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	for name, b := range map[string][]byte{"cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}
