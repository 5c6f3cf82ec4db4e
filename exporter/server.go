package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// stopTimeout is how long requests may still take once the server is to stop.
const stopTimeout = 5 * time.Second

// Server answers HTTP requests on some addresses.
type Server struct {
	listeners []net.Listener
	config    string
	logger    *slog.Logger
}

// Listen opens the addresses (host:port) and checks the web configuration, exporter-toolkit's file for TLS and passwords; ""
// for neither. From then on connections wait for Serve.
func Listen(addresses []string, webConfig string, logger *slog.Logger) (*Server, error) {
	if err := web.Validate(webConfig); err != nil {
		return nil, fmt.Errorf("--web.config.file %s: %w", webConfig, err)
	}
	s := &Server{config: webConfig, logger: logger}
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%s is in use by another process; choose another --web.listen-address", address)
		} else if err != nil {
			err = fmt.Errorf("--web.listen-address %s: %w", address, err)
		}
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// Serve answers until ctx ends or an address fails, then gives the requests that are under way 5 seconds.
func (s *Server) Serve(ctx context.Context, h http.Handler) error {
	failed := make(chan error, len(s.listeners))
	servers := make([]*http.Server, len(s.listeners))
	for i, l := range s.listeners {
		// One server for each address: exporter-toolkit wraps the handler of the server that it is given.
		server := &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       2 * time.Minute,
			ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		}
		servers[i] = server
		go func() {
			failed <- web.Serve(l, server, &web.FlagConfig{WebConfigFile: &s.config}, s.logger)
		}()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for _, server := range servers {
		if server.Shutdown(stop) != nil {
			_ = server.Close()
		}
	}
	s.close() // of a server that failed before it had its listener
	return err
}
