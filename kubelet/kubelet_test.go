package kubelet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a kubelet and an API server that answer with what v2-quiet's answered.
type fake struct {
	t        *testing.T
	server   *httptest.Server
	config   Config
	mu       sync.Mutex
	token    string
	override map[string]http.HandlerFunc // by path
	writes   http.HandlerFunc            // what is not GET; nil to take nothing
	asked    map[string]int
	events   chan string // what the watch says next; closed to end it
}

var livePaths = map[string]string{
	"/stats/summary": "stats-summary.json", "/metrics/resource": "metrics-resource", "/pods": "pods.json", "/configz": "configz.json",
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, token: "first", override: map[string]http.HandlerFunc{}, asked: map[string]int{}, events: make(chan string, 9)}
	f.server = httptest.NewUnstartedServer(f)
	f.server.EnableHTTP2 = true
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	account := t.TempDir()
	f.write(account, "token", f.token+"\n")
	f.write(account, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})))
	f.config = Config{
		Kubelet: f.server.URL, APIServer: f.server.URL, Node: "lab-node", ServiceAccount: account, Timeout: 5 * time.Second,
	}
	return f
}

func (f *fake) write(dir, name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// answer makes a path answer in another way, nil for as before.
func (f *fake) answer(path string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.override[path] = h
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	token, override, events, writes := f.token, f.override[r.URL.Path], f.events, f.writes
	f.asked[r.URL.String()]++
	f.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+token:
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
	case r.Method != http.MethodGet && writes != nil:
		writes(w, r)
	case r.Method != http.MethodGet:
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
	case override != nil:
		override(w, r)
	case livePaths[r.URL.Path] != "":
		http.ServeFile(w, r, filepath.Join(nodes, "v2-quiet/kubelet", livePaths[r.URL.Path]))
	case r.URL.Path == "/api/v1/nodes" && r.FormValue("watch") == "1":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		if r.FormValue("fieldSelector") == "metadata.name=lab-node" {
			_, _ = io.WriteString(w, event("ADDED", f.node()))
		}
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case e, ok := <-events:
				if !ok {
					return
				}
				_, _ = io.WriteString(w, e)
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) node() string {
	b, err := os.ReadFile(nodes + "/v2-quiet/api/node.json")
	if err != nil {
		f.t.Error(err)
	}
	return string(b)
}

func event(kind, object string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, fmt.Appendf(nil, `{"type":%q,"object":%s}`, kind, object)); err != nil {
		panic(err)
	}
	return b.String() + "\n"
}

func (f *fake) open() *Client {
	f.t.Helper()
	c, err := Open(f.config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

func TestRead(t *testing.T) {
	f := newFake(t)
	began := time.Now()
	got, errs := f.open().Read(t.Context())
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	for name, at := range map[string]time.Time{"Kubernetes": got.Time, "Node": got.Node.Time} {
		if at.Before(began) || at.After(time.Now()) {
			t.Errorf("the time of %s is %v, want now", name, at)
		}
	}
	want := *saved(t, "v2-quiet")
	want.Time, want.PodsTime, want.ConfigTime, want.Node.Time = got.Time, got.Time, got.Time, got.Node.Time
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want what the saved node has:\n%+v", got, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.asked["/stats/summary?only_cpu_and_memory=true"]; n != 1 || len(f.asked) != 5 {
		t.Errorf("asked for %v", f.asked)
	}
}

func TestReadWithoutAPIServer(t *testing.T) {
	f := newFake(t)
	f.config.APIServer, f.config.Node = "", ""
	k, errs := f.open().Read(t.Context())
	if len(errs) != 0 || !k.Node.IsZero() || k.Pods == nil {
		t.Errorf("%+v, %v", k, errs)
	}
}

// Each fault, at each of the kubelet's endpoints: the others' parts come out, and the hint says what to do.
func TestReadFaults(t *testing.T) {
	status := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
	}
	start := func(w http.ResponseWriter, r *http.Request, n int) {
		b, err := os.ReadFile(filepath.Join(nodes, "v2-quiet/kubelet", livePaths[r.URL.Path]))
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(b[:len(b)*n/4])
		_ = http.NewResponseController(w).Flush()
	}
	slow := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	rights := map[string]string{
		"/stats/summary": "nodes/stats", "/metrics/resource": "nodes/metrics", "/pods": "nodes/pods", "/configz": "nodes/configz",
	}
	for name, fault := range map[string]struct {
		answer      http.HandlerFunc
		error, hint string // RIGHT stands for the endpoint's
	}{
		"401": {status(401, "Unauthorized"), "it answers 401 Unauthorized", "authentication.webhook.enabled"},
		"403": {
			status(403, "Forbidden (user=memrecon, verb=get, resource=nodes,\n subresource(s)=[x])"),
			"it answers 403 Forbidden: Forbidden (user=memrecon, verb=get, resource=nodes, subresource(s)=[x])",
			"grant get on RIGHT to memrecon's ServiceAccount",
		},
		"404":        {status(404, ""), "it answers 404 Not Found", "nothing under this path: check --kubelet.url"},
		"500":        {status(500, "no stats"), "it answers 500 Internal Server Error: no stats", "look into its log"},
		"503":        {status(503, ""), "it answers 503 Service Unavailable", "look into its log"},
		"redirect":   {http.RedirectHandler("/pods", http.StatusFound).ServeHTTP, "it answers 302 Found", "check --kubelet.url"},
		"no answer":  {slow, "no answer in time", "firewalls and network policies"},
		"slow body":  {func(w http.ResponseWriter, r *http.Request) { start(w, r, 2); slow(w, r) }, "no answer in time", "busy"},
		"empty":      {func(http.ResponseWriter, *http.Request) {}, "", ""},
		"cut off":    {func(w http.ResponseWriter, r *http.Request) { start(w, r, 2); panic(http.ErrAbortHandler) }, "the answer breaks off", "that is so when the kubelet stops"},
		"half":       {func(w http.ResponseWriter, r *http.Request) { start(w, r, 2) }, "", ""},
		"text":       {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>Sign in</html>") }, "", "report it to memrecon with the answer"},
		"other JSON": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"kind":"Status"}`+"\n") }, "", "report it to memrecon with the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for path, right := range rights {
				f := newFake(t)
				if name == "no answer" || name == "slow body" {
					f.config.Timeout = 2 * time.Second
				}
				f.answer(path, fault.answer)
				k, errs := f.open().Read(t.Context())
				if len(errs) != 1 {
					t.Fatalf("%s: errors %+v, want one", path, errs)
				}
				e := errs[0]
				hint := strings.ReplaceAll(fault.hint, "RIGHT", right)
				if !strings.HasPrefix(e.Source, f.server.URL+path) || e.Error == "" || !strings.Contains(e.Error, fault.error) ||
					!strings.Contains(e.Hint, hint) || strings.Contains(e.Error, "127.0.0.1") {
					t.Errorf("%s: %+v, want %q and %q", path, e, fault.error, hint)
				}
				for part, missing := range map[string]bool{
					"/stats/summary": k.Summary.IsZero(), "/metrics/resource": k.WorkingSets == nil, "/pods": k.Pods == nil,
					"/configz": k.Config.IsZero(), "": k.Node.IsZero(),
				} {
					if missing != (part == path) {
						t.Errorf("%s fails, and of %q nothing came: %t", path, part, missing)
					}
				}
			}
		})
	}
}

// memrecon never asks for nodes/proxy, and says so where an older kubelet would have it.
func TestForbiddenOnAnOlderKubelet(t *testing.T) {
	f := newFake(t)
	f.answer("/pods", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Forbidden", http.StatusForbidden) })
	_, errs := f.open().Read(t.Context())
	if len(errs) != 1 || !strings.Contains(errs[0].Hint, "a kubelet before 1.33 asks for nodes/proxy in its place, which memrecon should not have") {
		t.Errorf("%+v", errs)
	}
}

func TestReadHugeAnswer(t *testing.T) {
	f := newFake(t)
	f.answer("/pods", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[`)
		for range maxAnswer >> 20 {
			if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
				return
			}
		}
		fmt.Fprint(w, "]}")
	})
	f.config.Timeout = time.Minute
	k, errs := f.open().Read(t.Context())
	if len(errs) != 1 || !strings.Contains(errs[0].Error, "larger than 32 MiB") || k.Pods != nil {
		t.Errorf("%d pods, %+v", len(k.Pods), errs)
	}
}

func TestTokenIsRotated(t *testing.T) {
	f := newFake(t)
	c := f.open()
	if _, errs := c.Read(t.Context()); len(errs) != 0 {
		t.Fatal(errs)
	}
	f.mu.Lock()
	f.token = "second"
	f.mu.Unlock()
	if _, errs := c.Read(t.Context()); len(errs) != 4 || !strings.Contains(errs[0].Error, "401") {
		t.Fatalf("with the expired token: %+v", errs)
	}
	f.write(f.config.ServiceAccount, "token", "second")
	if _, errs := c.Read(t.Context()); len(errs) != 0 {
		t.Errorf("with the new token: %+v", errs)
	}
	if err := os.Remove(filepath.Join(f.config.ServiceAccount, "token")); err != nil {
		t.Fatal(err)
	}
	if _, errs := c.Read(t.Context()); len(errs) != 4 || !strings.Contains(errs[0].Hint, "--kubernetes.serviceaccount") {
		t.Errorf("without a token: %+v", errs)
	}
}

// A cluster's CA is renewed while the agent runs: connections that are made after that go by the file as it is then.
func TestCAIsRotated(t *testing.T) {
	f := newFake(t)
	f.config.APIServer = ""
	now, err := os.ReadFile(filepath.Join(f.config.ServiceAccount, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	f.write(f.config.ServiceAccount, "ca.crt", authority(t))
	c := f.open()
	if _, errs := c.Read(t.Context()); len(errs) != 4 || !strings.Contains(errs[0].Hint, "not from the cluster's CA") {
		t.Fatalf("with another CA: %+v", errs)
	}
	f.write(f.config.ServiceAccount, "ca.crt", string(now))
	if _, errs := c.Read(t.Context()); len(errs) != 0 {
		t.Errorf("with the new CA: %+v", errs)
	}
	f.server.CloseClientConnections()
	f.write(f.config.ServiceAccount, "ca.crt", "")
	for range 20 { // the first may meet the connection that is being closed
		if _, errs := c.Read(t.Context()); len(errs) == 4 && strings.Contains(errs[0].Error, "no certificate in") && errs[0].Hint != "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, errs := c.Read(t.Context())
	t.Errorf("without a CA: %+v", errs)
}

// authority is the certificate of some other CA.
func authority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCertificates(t *testing.T) {
	f := newFake(t)
	f.config.APIServer = ""
	clusterCA := filepath.Join(f.config.ServiceAccount, "ca.crt")
	f.write(f.config.ServiceAccount, "other.crt", authority(t))
	other := filepath.Join(f.config.ServiceAccount, "other.crt")
	named := strings.Replace(f.server.URL, "127.0.0.1", "localhost", 1)
	for name, c := range map[string]struct {
		config Config
		want   string // in the error and its hint; none for success
	}{
		"the cluster's CA":         {Config{Kubelet: f.server.URL}, ""},
		"another CA":               {Config{Kubelet: f.server.URL, KubeletCA: other}, "--kubelet.ca-file, or leave it unverified with --kubelet.insecure-skip-verify"},
		"the right other CA":       {Config{Kubelet: f.server.URL, KubeletCA: clusterCA}, ""},
		"another name":             {Config{Kubelet: named}, "--kubelet.url must be one of the names"},
		"unverified":               {Config{Kubelet: f.server.URL, KubeletCA: other, KubeletInsecure: true}, ""},
		"unverified, another name": {Config{Kubelet: named, KubeletInsecure: true}, ""},
	} {
		c.config.ServiceAccount = f.config.ServiceAccount
		client, err := Open(c.config)
		if err != nil {
			t.Fatal(err)
		}
		_, errs := client.Read(t.Context())
		client.Close()
		switch {
		case c.want == "" && len(errs) != 0:
			t.Errorf("%s: %+v", name, errs)
		case c.want != "" && (len(errs) != 4 || !strings.Contains(errs[0].Hint, c.want)):
			t.Errorf("%s: %+v, want %q", name, errs, c.want)
		}
	}

	// The API server is verified whatever holds for the kubelet.
	f.config.APIServer = named
	f.config.KubeletInsecure = true
	_, errs := f.open().Read(t.Context())
	if len(errs) != 1 || !strings.Contains(errs[0].Hint, "--kubernetes.url must be one of the names") {
		t.Errorf("%+v", errs)
	}
}

func TestNobodyThere(t *testing.T) {
	f := newFake(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, c := range map[string]struct{ url, error, hint string }{
		"refused":  {"https://" + closed.Addr().String(), "connect: connection refused", "nothing listens there: check that the kubelet runs"},
		"no TLS":   {"https://" + plain.Listener.Addr().String(), "", "must have the secure port"},
		"no name":  {"https://kubelet.invalid:10250", "looking up its name", "check that --kubelet.url is the address of the kubelet"},
		"stopping": {stopping(t), "the answer breaks off", "that is so when the kubelet stops"},
	} {
		f.config.Kubelet = c.url
		k, errs := f.open().Read(t.Context())
		if len(errs) != 4 || k.Node.IsZero() {
			t.Fatalf("%s: %+v, want all four endpoints to fail and the Node to be there", name, errs)
		}
		for _, e := range errs {
			if !strings.Contains(e.Error, c.error) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("%s: %+v, want %q and %q", name, e, c.error, c.hint)
			}
		}
	}
}

// stopping is the URL of a server that closes every connection.
func stopping(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // so that it ends without a reset
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
		}
	}()
	return "https://" + l.Addr().String()
}

func TestOpenRefuses(t *testing.T) {
	f := newFake(t)
	good := f.config
	f.write(good.ServiceAccount, "empty.crt", "no certificate")
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no kubelet":      {func(c *Config) { c.Kubelet = "" }, "--kubelet.url"},
		"no TLS":          {func(c *Config) { c.Kubelet = "http://127.0.0.1:10255" }, "--kubelet.url"},
		"no URL":          {func(c *Config) { c.APIServer = "10.96.0.1:443" }, "--kubernetes.url"},
		"no node":         {func(c *Config) { c.Node = "" }, "--node"},
		"no folder":       {func(c *Config) { c.ServiceAccount += "/none" }, "--kubernetes.serviceaccount must be the folder"},
		"no certificates": {func(c *Config) { c.KubeletCA = filepath.Join(c.ServiceAccount, "empty.crt") }, "no certificate in"},
	} {
		config := good
		c.change(&config)
		client, err := Open(config)
		if err == nil || client != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Nothing is left behind by reading again and again, by failing, or by Close.
func TestReadLeavesNothing(t *testing.T) {
	f := newFake(t)
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	c := f.open()
	for range 3 {
		_, _ = c.Read(t.Context())
	}
	files, goroutines := open(), runtime.NumGoroutine()
	for i := range 20 {
		if i%2 == 0 {
			f.answer("/pods", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
		} else {
			f.answer("/pods", nil)
		}
		_, _ = c.Read(t.Context())
	}
	settles(t, "after 20 readings", func() bool { return open() <= files && runtime.NumGoroutine() <= goroutines })
}

func settles(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not within 10 s")
		}
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	f := newFake(t)
	f.answer("/pods", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := f.open()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, errs := c.Read(ctx); len(errs) != 1 || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %v", errs, time.Since(began))
	}
}
