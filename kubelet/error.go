package kubelet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// statusError is an answer other than 200 OK and 201 Created.
type statusError struct {
	code int
	// text is how the answer begins; both servers say there what they denied and to whom.
	text string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("it answers %d %s", e.code, http.StatusText(e.code))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

var (
	errTooLarge = fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	errBroken   = errors.New("the answer breaks off")
	errNoNode   = errors.New("there is no Node of this name")
)

// failed is an error as the snapshot has it.
func (e *endpoint) failed(err error) snapshot.SourceError {
	return snapshot.SourceError{Source: e.base + e.path, Error: reason(err), Hint: e.lost + "; " + e.remedy(err)}
}

// reason says what went wrong in words that stay the same while it does: without the port of our own end or the time of day.
func reason(err error) string {
	if isTimeout(err) {
		return "no answer in time"
	}
	if expired, ok := errors.AsType[x509.CertificateInvalidError](err); ok && expired.Reason == x509.Expired {
		return fmt.Sprintf("its certificate holds from %s to %s only",
			expired.Cert.NotBefore.Format(time.RFC3339), expired.Cert.NotAfter.Format(time.RFC3339))
	}
	if isBroken(err) {
		return errBroken.Error()
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return "looking up its name: " + lookup.Err
	}
	if operation, ok := errors.AsType[*net.OpError](err); ok {
		return operation.Err.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	slow, ok := errors.AsType[net.Error](err)
	return ok && slow.Timeout()
}

func isBroken(err error) bool {
	return errors.Is(err, errBroken) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// remedy is what the user can do about an error of an endpoint.
func (e *endpoint) remedy(err error) string {
	if status, ok := errors.AsType[*statusError](err); ok {
		return e.statusRemedy(status.code)
	}
	switch {
	case is[*fs.PathError](err):
		return "give memrecon's pod its ServiceAccount's token, or name the folder with --kubernetes.serviceaccount"
	case is[x509.UnknownAuthorityError](err):
		return e.unknownCA
	case is[x509.HostnameError](err):
		return e.flag + " must be one of the names that the certificate of " + e.name + " is for"
	case is[*tls.CertificateVerificationError](err):
		return "renew the certificate of " + e.name + ", and check the clocks"
	case errors.Is(err, http.ErrSchemeMismatch), is[tls.RecordHeaderError](err):
		return "what listens there does not speak TLS: " + e.flag + " must have the secure port"
	case errors.Is(err, errNoNode):
		return "name the node with --node as kubectl get nodes does"
	case isTimeout(err):
		return e.name + " is busy, or something drops the packets: look into its log, and at firewalls and network policies"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check that " + e.name + " runs, and that " + e.flag + " is where"
	case isBroken(err):
		return "that is so when " + e.name + " stops; if it goes on, look into its log"
	case is[net.Error](err):
		return "check that " + e.flag + " is the address of " + e.name
	}
	return "this is not how " + e.name + " answers: check " + e.flag + ", and if that is right, report it to memrecon with the answer"
}

func (e *endpoint) statusRemedy(code int) string {
	switch {
	case code == http.StatusUnauthorized:
		return e.unauthorized
	case code == http.StatusForbidden:
		return "grant " + e.right + " to memrecon's ServiceAccount" + e.coarse
	case code == http.StatusNotFound:
		return e.name + " has nothing under this path: check " + e.flag + e.absent
	case code >= 500:
		return e.name + " itself failed: look into its log"
	}
	return "this is not how " + e.name + " answers: check " + e.flag
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
