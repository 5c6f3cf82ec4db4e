package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/memrecon/memrecon/internal/need"
)

const version = "v0.0.0-test"

// machines are the architectures that images are built for.
func machines() map[string]elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
}

// archives makes the archives as users do; they are by architecture.
func archives(t *testing.T) map[string]string {
	t.Helper()
	dist := t.TempDir()
	command(t, "make", "-C", "..", "image-archive", "VERSION="+version, "DIST="+dist)
	files := make(map[string]string)
	for arch := range machines() {
		files[arch] = filepath.Join(dist, "memrecon-"+version+"-"+arch+".tar")
	}
	return files
}

func TestArchive(t *testing.T) {
	for arch, file := range archives(t) {
		t.Run(arch, func(t *testing.T) {
			for _, tag := range []string{version, "latest"} {
				img := load(t, file, "localhost/memrecon:"+tag)
				checkConfig(t, img, arch)
				checkProgram(t, img, arch)
			}
		})
	}
}

// What another implementation makes of the archives.
func TestArchiveLoads(t *testing.T) {
	b := newBuildah(t)
	for arch, file := range archives(t) {
		t.Run(arch, func(t *testing.T) {
			b.run(t, "pull", "--policy=never", "docker-archive:"+file)
			got := b.run(t, "inspect", "--type=image",
				"--format={{.OCIv1.Architecture}} {{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}",
				"localhost/memrecon:"+version)
			if want := arch + " 65534:65534 [/memrecon] [agent]"; got != want {
				t.Errorf("buildah says %q, want %q", got, want)
			}
		})
	}
}

// The Dockerfile is built for real and makes the image that make image-archive makes, to the byte of the program. The image
// that it builds upon is made here, without a registry: a shell and make, with this machine's Go and its downloaded modules.
func TestDockerfile(t *testing.T) {
	b := newBuildah(t)
	b.golang(t)
	// The Dockerfile downloads all modules, also those of which a build here reads nothing, and has no network in this test.
	command(t, "go", "-C", "..", "mod", "download")
	volumes := []string{
		"--volume=" + t.TempDir() + ":/tmp",
		"--volume=" + goEnv(t, "GOROOT") + ":/usr/local/go:ro",
		"--volume=" + goEnv(t, "GOMODCACHE") + ":/go/pkg/mod",
		"--volume=" + goEnv(t, "GOCACHE") + ":/root/.cache/go-build",
	}
	for arch, archive := range archives(t) {
		t.Run(arch, func(t *testing.T) {
			tag := "localhost/dockerfile:" + arch
			// Debian's buildah does not know BUILDPLATFORM by itself.
			b.run(t, slices.Concat([]string{"build", "--isolation=chroot", "--pull-never", "--platform=linux/" + arch,
				"--build-arg=BUILDPLATFORM=linux/" + runtime.GOARCH, "--build-arg=VERSION=" + version, "--tag=" + tag},
				volumes, []string{".."})...)
			file := filepath.Join(t.TempDir(), "image.tar")
			b.run(t, "push", tag, "docker-archive:"+file+":"+tag)

			img := load(t, file, tag)
			checkConfig(t, img, arch)
			checkProgram(t, img, arch)
			if !bytes.Equal(program(t, img), program(t, load(t, archive, "localhost/memrecon:latest"))) {
				t.Error("the program differs from the one that make image-archive ships")
			}
		})
	}
}

// memrecon is memrecon's image.
func memrecon(version string) image {
	return image{name: "localhost/memrecon", version: version, args: []string{"agent"}}
}

func TestWriteIsReproducible(t *testing.T) {
	var before []byte
	binary := static(t)
	for range 2 {
		out := filepath.Join(t.TempDir(), "image.tar")
		if err := memrecon(version).write(out, binary); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !bytes.Equal(got, before) {
			t.Error("the same program and version made other bytes")
		}
		before = got
	}
}

func TestWriteRefuses(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	riscv := filepath.Join(t.TempDir(), "riscv")
	compile(t, riscv, "GOARCH=riscv64")
	tests := []struct{ name, binary, version, want string }{
		{"missing", "no-such-file", version, "no-such-file: no such file"},
		{"no program", script, version, "no Linux program"},
		{"dynamic", "/bin/sh", version, "CGO_ENABLED=0"},
		{"architecture", riscv, version, "EM_RISCV"},
		{"tag", static(t), "no tag", `the version "no tag"`},
		{"no tag", static(t), "", `the version ""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image.tar")
			err := memrecon(tt.version).write(out, tt.binary)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("write() = %v, want an error with %q", err, tt.want)
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it left an archive behind (%v)", err)
			}
		})
	}
	if err := memrecon(version).write(filepath.Join(t.TempDir(), "no-such-folder", "image.tar"), static(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write() into a missing folder = %v", err)
	}
}

// load reads an archive, and checks all its digests.
func load(t *testing.T, file, tag string) v1.Image {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, &ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	return img
}

// checkConfig holds the Dockerfile and the command to the same configuration.
func checkConfig(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	got := fmt.Sprintf("%s/%s %s %q %q", config.OS, config.Architecture, c.User, c.Entrypoint, c.Cmd)
	if want := fmt.Sprintf("linux/%s 65534:65534 [%q] [%q]", arch, "/memrecon", "agent"); got != want {
		t.Errorf("config is %s, want %s", got, want)
	}
	for label, want := range map[string]string{"title": "memrecon", "version": version, "licenses": "Apache-2.0"} {
		if got := c.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s = %q, want %q", label, got, want)
		}
	}
}

// checkProgram checks that the program is for the architecture, and where that is this machine's, that it runs.
func checkProgram(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	content := program(t, img)
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != machines()[arch] {
		t.Errorf("the program is for %s", f.Machine)
	}
	if arch != runtime.GOARCH {
		return
	}
	file := filepath.Join(t.TempDir(), "memrecon")
	if err := os.WriteFile(file, content, 0o755); err != nil {
		t.Fatal(err)
	}
	out := command(t, file, "version")
	if want := "memrecon " + version + ", "; !strings.HasPrefix(out, want) {
		t.Errorf("memrecon version says %q, want %q", out, want)
	}
}

// program is the only file in the image.
func program(t *testing.T, img v1.Image) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var content []byte
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		files := tar.NewReader(r)
		for {
			header, err := files.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if content != nil || header.Name != "memrecon" || header.FileInfo().Mode() != 0o755 || header.Uid != 0 || header.Gid != 0 {
				t.Fatalf("the image has %s, %v, owner %d:%d; want memrecon alone, -rwxr-xr-x, 0:0",
					header.Name, header.FileInfo().Mode(), header.Uid, header.Gid)
			}
			if content, err = io.ReadAll(files); err != nil {
				t.Fatal(err)
			}
		}
		_ = r.Close()
	}
	return content
}

// buildah builds and loads images without a daemon, with a store of its own.
type buildah []string

func newBuildah(t *testing.T) buildah {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	return buildah{need.Program(t, "buildah"), "--root=" + dir + "/root", "--runroot=" + dir + "/run", "--storage-driver=vfs"}
}

func (b buildah) run(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, append(b, args...)...)
}

// golang makes a stand-in for the official image golang:1.26: its paths and variables, but Go itself is mounted into it.
func (b buildah) golang(t *testing.T) {
	t.Helper()
	container := strings.TrimSpace(b.run(t, "from", "scratch"))
	for _, program := range []string{"sh", "make"} {
		file, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		b.run(t, "copy", container, file, "/bin/"+program)
		for _, field := range strings.Fields(command(t, "ldd", file)) {
			if strings.HasPrefix(field, "/") {
				b.run(t, "copy", container, field, field)
			}
		}
	}
	b.run(t, "config", "--env=PATH=/usr/local/go/bin:/bin", "--env=GOPATH=/go", "--env=GOTOOLCHAIN=local", "--env=GOPROXY=off",
		"--env=HOME=/root", container)
	b.run(t, "commit", container, "golang:1.26")
}

func goEnv(t *testing.T, variable string) string {
	t.Helper()
	return strings.TrimSpace(command(t, "go", "env", variable))
}

// static is a static program for this machine's architecture.
func static(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	compile(t, file)
	return file
}

func compile(t *testing.T, out string, env ...string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, source)
	cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0"}, env...)...)
	if got, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, got)
	}
}

// command runs a program and returns its standard output.
func command(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}
