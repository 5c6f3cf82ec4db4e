package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/memrecon/memrecon/internal/qemu"
)

// nodeFiles are the node's own: its initramfs' init, and what is on its disk besides programs.
//
//go:embed node
var nodeFiles embed.FS

// diskSize is the node's disk's. Only what is written to it takes memory.
const diskSize = "4G"

// startNode boots the node's machine. Its console is its log.
func (c *cluster) startNode(keys nodeKeys) error {
	disk, err := c.disk(keys)
	if err != nil {
		return err
	}
	initramfs, err := c.initramfs()
	if err != nil {
		return err
	}
	defer initramfs.Close()
	machine := qemu.Machine{
		Kernel:    filepath.Join(c.cache, "vmlinuz"),
		Initramfs: initramfs,
		MemoryMiB: c.memoryMiB,
		Append:    "lab.cgroup=" + c.cgroup,
		Args: []string{
			"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
			"-drive", "file=" + disk + ",format=raw,if=virtio,cache=unsafe",
			"-netdev", "tap,id=wire,ifname=" + wire + ",script=no,downscript=no", "-device", "virtio-net-pci,netdev=wire,romfile=",
		},
	}
	p := &process{
		name:    "node",
		command: func() *exec.Cmd { return machine.Command(context.Background()) },
		log:     filepath.Join(c.logDir(), "node.log"),
		fail:    c.fail,
	}
	return p.start()
}

// disk makes the node's root file system.
func (c *cluster) disk(keys nodeKeys) (string, error) {
	root := filepath.Join(c.dir, "root")
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "sbin", "usr/sbin", "var/log", "etc/kubernetes/kubelet.conf.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	files, err := fs.Sub(nodeFiles, "node/root")
	if err != nil {
		return "", err
	}
	for _, tree := range []struct {
		target string
		source fs.FS
	}{
		{"", os.DirFS(filepath.Join(c.cache, "node"))},
		{"", files},
		{"images", os.DirFS(filepath.Join(c.cache, "lab", "images"))},
	} {
		if err := os.CopyFS(filepath.Join(root, tree.target), tree.source); err != nil {
			return "", err
		}
	}
	kubelet, err := os.ReadFile(c.kubeletProgram())
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "usr", "bin", "kubelet"), kubelet, 0o755); err != nil {
		return "", err
	}
	for name, content := range keys {
		if err := os.WriteFile(filepath.Join(root, "etc", "kubernetes", name), content, 0o600); err != nil {
			return "", err
		}
	}
	if c.kubeletConfig != "" {
		content, err := os.ReadFile(c.kubeletConfig)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(root, "etc", "kubernetes", "kubelet.conf.d", "lab.conf"), content, 0o644); err != nil {
			return "", err
		}
	}
	image := filepath.Join(c.dir, "disk")
	// No journal, and no zeros written to where there are only zeros.
	mkfs := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "assume_storage_prezeroed=1", "-d", root, image, diskSize)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out))
	}
	return image, os.RemoveAll(root)
}

// initramfs has what the kernel needs to get to the disk, and all other drivers, since the disk's programs need none of their own.
func (c *cluster) initramfs() (*os.File, error) {
	var w qemu.Initramfs
	for _, dir := range []string{"bin", "dev", "proc", "sys", "root", "modules"} {
		w.Dir(dir)
	}
	busybox, err := os.ReadFile(filepath.Join(c.cache, "node", "bin", "busybox"))
	if err != nil {
		return nil, err
	}
	w.Program("bin/busybox", busybox)
	init, err := nodeFiles.ReadFile("node/initramfs/init")
	if err != nil {
		return nil, err
	}
	w.Program("init", init)
	kernel, err := filepath.EvalSymlinks(filepath.Join(c.cache, "vmlinuz"))
	if err != nil {
		return nil, err
	}
	release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	modules, err := modulesOf(filepath.Join(c.cache, "debian", "lib", "modules", release), "virtio_pci", "virtio_blk", "virtio_net", "overlay", "veth")
	if err != nil {
		return nil, err
	}
	for i, m := range modules {
		w.File(fmt.Sprintf("modules/%02d-%s.ko", i, m.name), m.content)
	}
	return w.Seal()
}

// shell runs a line in the node's shell, and returns what it printed, errors too, and its exit status.
func shell(ctx context.Context, line string) ([]byte, int, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", nodeAddress+":2222")
	if err != nil {
		return nil, 0, fmt.Errorf("the node's shell: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	quoted := "'" + strings.ReplaceAll(line, "'", `'\''`) + "'"
	if _, err := fmt.Fprintf(conn, "sh -c %s </dev/null 2>&1; printf '\\n%%d' $?; exit\n", quoted); err != nil {
		return nil, 0, fmt.Errorf("the node's shell: %w", err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		return nil, 0, fmt.Errorf("the node's shell: %w", err)
	}
	end := bytes.LastIndexByte(out, '\n')
	if end < 0 {
		return nil, 0, errors.New("the node's shell ended without a status")
	}
	status, err := strconv.Atoi(string(out[end+1:]))
	if err != nil {
		return nil, 0, errors.New("the node's shell ended without a status")
	}
	return out[:end], status, nil
}
