package incident

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// mostBytesOnDisk is how many bytes of incidents a Disk keeps at most, of no more than mostIncidents.
const mostBytesOnDisk = 4 << 20

// The files in a Disk's folder.
const (
	// fileName has a line of JSON for each incident, the oldest first.
	fileName = "incidents.jsonl"
	// unfinishedName is what is being written; what a process leaves that is killed then is written over by the next.
	unfinishedName = fileName + ".new"
	// damagedName is the last file that was set aside.
	damagedName = fileName + ".damaged"
)

// Disk keeps incidents and their flight records in a folder, so that they outlast the agent. It is for one process, and its methods must not be called at the
// same time.
type Disk struct {
	dir string
}

// Error is a folder or file that incidents can't be kept in, or read from.
type Error struct {
	Path string
	// Err is ErrDamaged or the operating system's error.
	Err error
	// Hint is what to do about it.
	Hint string
}

func (e *Error) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrDamaged is a file that is not what a Disk writes.
var ErrDamaged = errors.New("damaged")

// OpenDisk prepares to keep incidents in a folder, which it makes where there is none. An error is an *Error: it can't be written to.
func OpenDisk(dir string) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, failed(dir, err)
	}
	const writable, searchable = 2, 1 // W_OK and X_OK of access(2); unlike the folder's mode it knows read-only mounts
	if err := syscall.Access(dir, writable|searchable); err != nil {
		return nil, failed(dir, err)
	}
	return &Disk{dir}, nil
}

// Save writes incidents, the oldest first, in place of all that were there; of too many the oldest are left out. An error is an *Error:
// nothing was written, and what was there still is; or, where it is one of an incident, all but that.
func (d *Disk) Save(incidents []Incident) error {
	lines, left := encode(incidents)
	if err := d.write(lines); err != nil {
		_ = os.Remove(d.path(unfinishedName)) // on a full disk it is in the way
		return failed(d.path(fileName), err)
	}
	if left != nil {
		return &Error{d.path(fileName), left, "The others are saved. This is a fault of memrecon's: please report it."}
	}
	return nil
}

// encode is a line for each incident, the newest first, as far as there is room; and which could not be written as JSON.
func encode(incidents []Incident) (lines [][]byte, left error) {
	size := 0
	for i := len(incidents) - 1; i >= 0 && len(lines) < mostIncidents; i-- {
		line, err := json.Marshal(&incidents[i])
		if err != nil {
			left = errors.Join(left, fmt.Errorf("incident %s: %w", incidents[i].ID, err))
			continue
		}
		if size += len(line) + 1; size > mostBytesOnDisk {
			break
		}
		lines = append(lines, append(line, '\n'))
	}
	return lines, left
}

// write puts a file with the lines in the place of the old one: whoever reads sees the one or the other, also after a power cut.
func (d *Disk) write(lines [][]byte) error {
	f, err := os.OpenFile(d.path(unfinishedName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for i := len(lines) - 1; i >= 0; i-- {
		_, _ = w.Write(lines[i]) // Flush tells
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(d.path(unfinishedName), d.path(fileName)); err != nil {
		return err
	}
	return d.sync()
}

// sync has the folder's entries, and so a rename, on the disk.
func (d *Disk) sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Load reads the incidents, the oldest first; none where nothing was saved. An error, an *Error, does not mean that there are none:
// of a damaged file those that can be read are given, and kept, and the file is set aside, so that this is said once.
func (d *Disk) Load() ([]Incident, error) {
	path := d.path(fileName)
	content, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, failed(path, err)
	}
	incidents, damage := decode(content)
	if damage == nil {
		return incidents, nil
	}
	found := &Error{path, damage, "What can be read of it is kept. The file is now " + damagedName + " beside it: delete it when you have looked at it."}
	if err := d.setAside(incidents); err != nil {
		found.Err = fmt.Errorf("%w; it can't be set aside: %w", damage, err)
		found.Hint = "What can be read of it is kept in memory. Move it away."
	}
	return incidents, found
}

// read is a file's content; of more than a Disk writes, which is then damaged, so much and a byte.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, mostBytesOnDisk+1))
}

// decode is what can be read of a file, and an error that wraps ErrDamaged where that is not all.
func decode(content []byte) ([]Incident, error) {
	var incidents []Incident
	number, bad, first := 0, 0, 0
	for line := range bytes.Lines(content) {
		number++
		var i Incident
		// A line that lost its end is none, even if it happens to be JSON.
		if err := json.Unmarshal(line, &i); err != nil || i.ID == "" || i.Time.IsZero() || !bytes.HasSuffix(line, []byte("\n")) {
			if bad++; bad == 1 {
				first = number
			}
			continue
		}
		incidents = append(incidents, i)
	}
	switch {
	case len(content) > mostBytesOnDisk:
		return incidents, fmt.Errorf("%w: it has more than the %d bytes that memrecon writes", ErrDamaged, mostBytesOnDisk)
	case bad > 0:
		return incidents, fmt.Errorf("%w: %d of %d lines are no incidents, the first of them line %d", ErrDamaged, bad, number, first)
	}
	return incidents, nil
}

// setAside gives the file another name, in place of one that was set aside before, and saves what could be read of it. At no moment is
// there less to be read than before.
func (d *Disk) setAside(incidents []Incident) error {
	if err := os.Remove(d.path(damagedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(d.path(fileName), d.path(damagedName)); err != nil {
		return err
	}
	return d.Save(incidents)
}

func (d *Disk) path(name string) string { return filepath.Join(d.dir, name) }

// failed is the error with what to do about it.
func failed(path string, err error) error {
	hint := "Until this is mended, incidents are kept in memory alone."
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "Make room there. " + hint
	case errors.Is(err, syscall.EROFS):
		hint = "Mount it so that it can be written to. " + hint
	case errors.Is(err, fs.ErrPermission):
		hint = "Let the user " + strconv.Itoa(os.Geteuid()) + ", as whom memrecon runs, write to the folder. " + hint
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		hint = "Give a folder. " + hint
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		path, err = p.Path, p.Err
	}
	return &Error{path, err, hint}
}
