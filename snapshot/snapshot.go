// Package snapshot is one node at one instant: what the kernel's files said, as plain data. It owns the types that every
// other package passes around and their form in a capture file. It does no I/O, has no clock, and derives nothing: a
// snapshot is immutable once published, and everything derived from it is a pure function of it.
package snapshot

import "time"

// Version is the version of the capture form of a Snapshot. It changes when a field changes its meaning; a reader refuses a
// newer one.
const Version = 1

// Snapshot is one reading of a node. A part that could not be read is absent, and Errors says why.
type Snapshot struct {
	Version int `json:"version"`
	// Time is the wall clock at the first read.
	Time time.Time `json:"time"`
	// Node is the name of the host: the UTS node name, or what the user said it is.
	Node string `json:"node"`
	// Kernel is the kernel's release (/proc/sys/kernel/osrelease, else the third word of /proc/version).
	Kernel string `json:"kernel,omitempty"`
	// Mode is which cgroup version carries the memory controller.
	Mode Mode `json:"cgroup_mode,omitempty"`
	Host Host `json:"host"`
	// Cgroups holds every cgroup of the memory hierarchy, parents before their children; index 0 is the root where it
	// could be read.
	Cgroups []Cgroup `json:"cgroups,omitempty"`
	// Kubernetes is nil where there is none, or nobody asked.
	Kubernetes *Kubernetes   `json:"kubernetes,omitempty"`
	Sweep      Sweep         `json:"sweep"`
	Errors     []SourceError `json:"errors,omitempty"`
}

// Mode tells which cgroup version the memory controller is on.
type Mode string

// The modes. A hybrid host has both versions mounted; Hybrid here means that the memory controller is the v1 one and a v2
// hierarchy stands beside it, so its files are those of V1.
const (
	V1     Mode = "v1"
	V2     Mode = "v2"
	Hybrid Mode = "hybrid"
)

// Files tells which set of file names and keys the memory controller uses: V1 or V2, or "" where the mode is not known.
func (m Mode) Files() Mode {
	if m == Hybrid {
		return V1
	}
	return m
}

// Sweep is how the reading of the cgroups went.
type Sweep struct {
	// Cgroups is how many cgroups this sweep holds.
	Cgroups int `json:"cgroups"`
	// Appeared and Vanished count the cgroups that came and went since the sweep before. Both are normal.
	Appeared int `json:"appeared,omitempty"`
	Vanished int `json:"vanished,omitempty"`
	// Duration is from the first read of the snapshot to its last, the host's files included.
	Duration time.Duration `json:"duration_ns"`
}

// SourceError is a source that could not be read, or only in part.
type SourceError struct {
	// Source is the file or endpoint.
	Source string `json:"source"`
	// Error is what went wrong, in words.
	Error string `json:"error"`
	// Hint is what the user can do about it.
	Hint string `json:"hint,omitempty"`
}
