// Command image writes memrecon's container image as an archive, as the Dockerfile would build it, but with no container
// engine, base image or registry: for sites without access to one. docker load, podman load, ctr images import, kind load
// image-archive and skopeo read it.
//
// The archive is written here and not by go-containerregistry, with which the tests read it: that one puts an image's tags into
// the archive in random order, so the same image would be other bytes each time.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // for digest
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"regexp"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	// The name is that of no registry, so that a node without the image does not ask one for it.
	name := flag.String("name", "localhost/memrecon", "the image's name, the last part of which is the program's")
	binary := flag.String("binary", "", "the program, linked statically")
	version := flag.String("version", "latest", "the image's tag, besides latest")
	out := flag.String("out", "", "the archive to write")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image [flags] [ARGUMENT...], which are the program's where a pod gives none")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *binary == "" || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := (image{*name, *version, flag.Args()}).write(*out, *binary); err != nil {
		fmt.Fprintf(os.Stderr, "image: %s\n", err)
		os.Exit(1)
	}
}

// image is a program as a container image.
type image struct {
	name    string
	version string
	args    []string
}

// write makes the archive out of the program. The same program and image make the same bytes.
func (i image) write(out, binary string) error {
	if !regexp.MustCompile(`^\w[\w.-]{0,127}$`).MatchString(i.version) {
		return fmt.Errorf("the version %q is no tag of an image: letters, digits, _ . and -, at most 128", i.version)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	arch, err := architecture(program)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	content, err := i.archive(program, arch)
	if err != nil {
		return err
	}
	return os.WriteFile(out, content, 0o644)
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

// archive is the image as docker save writes it: the layer, the configuration and the list of both.
func (i image) archive(program []byte, arch string) ([]byte, error) {
	title := path.Base(i.name)
	layer, err := tape(file{title, 0o755, program})
	if err != nil {
		return nil, err
	}
	// What the Dockerfile's last stage says.
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: arch, OS: "linux"},
		Config: v1.ImageConfig{
			User:       "65534:65534",
			Entrypoint: []string{"/" + title},
			Cmd:        i.args,
			Labels: map[string]string{
				v1.AnnotationTitle:    title,
				v1.AnnotationVersion:  i.version,
				v1.AnnotationLicenses: "Apache-2.0",
			},
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return nil, err
	}
	packed, err := pack(layer)
	if err != nil {
		return nil, err
	}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	list := []entry{{
		Config:   digest.FromBytes(config).Encoded() + ".json",
		RepoTags: []string{i.name + ":" + i.version, i.name + ":latest"},
		Layers:   []string{digest.FromBytes(packed).Encoded() + ".tar.gz"},
	}}
	manifest, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return tape(file{list[0].Config, 0o644, config}, file{list[0].Layers[0], 0o644, packed}, file{"manifest.json", 0o644, manifest})
}

type file struct {
	name    string
	mode    int64
	content []byte
}

// tape is a tar file: of root's, and without times.
func tape(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func pack(content []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
