package cgroup

import "github.com/memrecon/memrecon/snapshot"

func Identify(path string) snapshot.Identity { return snapshot.Identity{} }
