// Command image writes memrecon's container image as an archive, as the Dockerfile beside it would build it, but with no
// container engine, base image or registry: for sites without access to one. docker load, podman load, ctr images import,
// kind load image-archive and skopeo read it.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// repository is the image's name. That of no registry, so that a node without the image does not ask one for it.
const repository = "localhost/memrecon"

func main() {
	binary := flag.String("binary", "", "memrecon's program, linked statically")
	version := flag.String("version", "latest", "the image's tag, besides latest")
	out := flag.String("out", "", "the archive to write")
	flag.Parse()
	if *binary == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*out, *binary, *version); err != nil {
		fmt.Fprintf(os.Stderr, "image: %s\n", err)
		os.Exit(1)
	}
}

// write makes the archive out of the program. The same program and version make the same bytes.
func write(out, binary, version string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	arch, err := architecture(program)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	img, err := build(program, arch, version)
	if err != nil {
		return err
	}
	images := make(map[name.Reference]v1.Image)
	for _, tag := range []string{version, "latest"} {
		ref, err := name.NewTag(repository + ":" + tag)
		if err != nil {
			return err
		}
		images[ref] = img
	}
	var archive bytes.Buffer
	if err := tarball.MultiRefWrite(images, &archive); err != nil {
		return err
	}
	return os.WriteFile(out, archive.Bytes(), 0o644)
}

// architecture is the program's, in Go's names. The image has nothing in it but the program, so one that asks for a dynamic
// linker would not start.
func architecture(program []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fmt.Errorf("no Linux program: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("linked dynamically, and the image has no libraries: build it with CGO_ENABLED=0")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	default:
		return "", fmt.Errorf("built for %s: amd64 and arm64 are supported", f.Machine)
	}
}

// build makes the image: one layer with one file, and what the Dockerfile's last stage says.
func build(program []byte, arch, version string) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	header := tar.Header{Name: "memrecon", Mode: 0o755, Size: int64(len(program)), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil }
	l, err := tarball.LayerFromOpener(opener, tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: arch,
		OS:           "linux",
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:       "65534:65534",
			Entrypoint: []string{"/memrecon"},
			Cmd:        []string{"agent"},
			Labels: map[string]string{
				"org.opencontainers.image.title":    "memrecon",
				"org.opencontainers.image.version":  version,
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(base, l)
}
