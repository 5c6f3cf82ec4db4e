// Package pressure makes controlled pressure on a host and tells what came of it. It owns what a scenario is, the cgroups and
// programs that a scenario becomes on this host, the guards, and what is observed; the programs themselves are memrecon leak.
// A scenario's file does not say where it runs: its pods are those of Kubernetes.
package pressure

import (
	"embed"
	"fmt"
	"os"
	"path"
	"strings"
)

//go:embed scenarios/*.yaml
var files embed.FS

// Scenarios are the scenarios that memrecon brings, by name.
func Scenarios() ([]*Scenario, error) {
	entries, err := files.ReadDir("scenarios")
	if err != nil {
		return nil, err
	}
	var all []*Scenario
	for _, e := range entries {
		s, err := builtIn(strings.TrimSuffix(e.Name(), ".yaml"))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Load reads a scenario: one that memrecon brings, by its name, or a file, by its path. What has a slash or ends in .yaml is a
// path. Each line of an error names the file and the field.
func Load(nameOrPath string) (*Scenario, error) {
	if !strings.Contains(nameOrPath, "/") && !strings.HasSuffix(nameOrPath, ".yaml") {
		return builtIn(nameOrPath)
	}
	file, err := os.ReadFile(nameOrPath)
	if err != nil {
		return nil, err
	}
	return parse(nameOrPath, file)
}

func builtIn(name string) (*Scenario, error) {
	file := path.Join("scenarios", name+".yaml")
	text, err := files.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("there is no scenario %q: memrecon pressure list has them; a file's name has to end in .yaml", name)
	}
	return parse(file, text)
}

func parse(file string, text []byte) (*Scenario, error) {
	s, err := Parse(text)
	if err == nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s: %s", file, strings.ReplaceAll(err.Error(), "\n", "\n"+file+": "))
}
