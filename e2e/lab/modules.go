package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// module is a kernel module.
type module struct {
	name    string
	content []byte
}

// modulesOf are the named modules of the kernel whose modules are in dir, and those that they depend on, in an order in which
// they can be loaded. depmod's lists are made when a kernel is installed, and this one is only unpacked.
func modulesOf(dir string, names ...string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var modules []module
	added := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if added[name] {
			return nil
		}
		added[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("%s: no module %s", dir, name)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		needs, err := dependencies(content)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, need := range needs {
			if err := add(strings.ReplaceAll(need, "-", "_")); err != nil {
				return err
			}
		}
		modules = append(modules, module{name, content})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return modules, nil
}

// dependencies reads which modules a module needs loaded: depends=a,b among the strings of its section .modinfo.
func dependencies(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
