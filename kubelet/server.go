package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// server is the kubelet or the API server.
type server struct {
	name   string
	base   string
	token  string // its file
	client *http.Client
	// flag is the one that says where the server is; unauthorized and unknownCA are the hints for a 401 and an unknown CA.
	flag, unauthorized, unknownCA string
}

func newKubelet(config *Config) (*server, error) {
	s := &server{
		name: "the kubelet", base: config.Kubelet, flag: "--kubelet.url",
		unauthorized: "the kubelet does not know memrecon's token: it must be the ServiceAccount's, and authentication.webhook.enabled " +
			"and authorization.mode Webhook in the kubelet's configuration",
		unknownCA: "the kubelet's certificate is not from the cluster's CA, and will not be unless it runs with serverTLSBootstrap: " +
			"name its CA with --kubelet.ca-file, or leave it unverified with --kubelet.insecure-skip-verify",
	}
	ca := config.KubeletCA
	if ca == "" {
		ca = filepath.Join(config.ServiceAccount, "ca.crt")
	}
	return s, s.prepare(config, ca, config.KubeletInsecure)
}

func newAPIServer(config *Config) (*server, error) {
	s := &server{
		name: "the API server", base: config.APIServer, flag: "--kubernetes.url",
		unauthorized: "the API server does not know memrecon's token: the folder of --kubernetes.serviceaccount must be this cluster's",
		unknownCA:    "the API server's certificate is not from ca.crt in the folder of --kubernetes.serviceaccount: that must be this cluster's",
	}
	return s, s.prepare(config, filepath.Join(config.ServiceAccount, "ca.crt"), false)
}

// prepare makes the client, which connects when it is used.
func (s *server) prepare(config *Config, caFile string, insecure bool) error {
	u, err := url.Parse(s.base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%s %q is not a URL such as https://10.0.0.5:10250", s.flag, s.base)
	}
	s.base = "https://" + u.Host
	s.token = filepath.Join(config.ServiceAccount, "token")
	// Read for each connection: the CA of a cluster can be renewed while the agent runs, and Kubernetes then renews the file.
	trust := func() (*tls.Config, error) {
		t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname(), NextProtos: []string{"h2", "http/1.1"}}
		if insecure {
			t.InsecureSkipVerify = true
			return t, nil
		}
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the CA of %s: %w; --kubernetes.serviceaccount must be the folder with its ca.crt", s.name, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA of %s: there is no certificate in %s", s.name, caFile)
		}
		return t, nil
	}
	if _, err := trust(); err != nil {
		return err
	}
	dialer := &net.Dialer{Timeout: config.Timeout}
	s.client = &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				t, err := trust()
				if err != nil {
					return nil, err
				}
				return (&tls.Dialer{NetDialer: dialer, Config: t}).DialContext(ctx, network, address)
			},
			ForceAttemptHTTP2: true,
			// A ping finds out where the other end of a watch is gone without a word.
			HTTP2:           &http.HTTP2Config{SendPingTimeout: 3 * config.Timeout, PingTimeout: config.Timeout},
			IdleConnTimeout: time.Minute,
			// For the watch, whose answer has no end; the others have the deadline of Read.
			ResponseHeaderTimeout: config.Timeout,
		},
		// The token is for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// endpoint is a source on its server.
type endpoint struct {
	*server
	source
}

// get reads the endpoint's part of k.
func (e *endpoint) get(ctx context.Context, k *snapshot.Kubernetes) error {
	body, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	return e.read(&bounded{r: body, left: maxAnswer}, k)
}

// open asks, and is the body of the answer.
func (e *endpoint) open(ctx context.Context) (io.ReadCloser, error) {
	return e.ask(ctx, http.MethodGet, e.path, "", nil)
}

// ask is the body of an answer that is 200 OK or 201 Created. The token is read each time: the kubelet renews it within the hour.
func (s *server) ask(ctx context.Context, method, path, contentType string, content []byte) (io.ReadCloser, error) {
	token, err := os.ReadFile(s.token)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		if asked, ok := errors.AsType[*url.Error](err); ok { // which repeats the URL
			err = asked.Err
		}
		return nil, err
	}
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusCreated {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return nil, &statusError{answer.StatusCode, inWords(text)}
	}
	return answer.Body, nil
}

// inWords is what an answer says that is an error: the API server's is a Status in JSON, the kubelet's a line of text.
func inWords(answer []byte) string {
	var status struct {
		Message string `json:"message"`
	}
	text := string(answer)
	if err := json.Unmarshal(answer, &status); err == nil {
		text = status.Message
	}
	return fmt.Sprintf("%.300s", strings.Join(strings.Fields(text), " "))
}

// maxAnswer bounds each answer, in bytes: the pods of 500 are some 5 MB as a rule.
const maxAnswer = 32 << 20

// bounded reads no more than it may, and tells an answer that breaks off from one that is wrong.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errBroken, err)
	}
	return n, err
}
