package incident_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// writeVariable is the folder that a process of the tests is to write to, again and again.
const writeVariable = "MEMRECON_TEST_WRITE"

// write is that process.
func write(dir string) {
	d, err := incident.OpenDisk(dir)
	for generation := 1; err == nil; generation++ {
		if err = d.Save(many(1+generation%100, fmt.Sprint(generation), 10_000)); err == nil {
			_, err = fmt.Println(generation)
		}
	}
	if found, ok := errors.AsType[*incident.Error](err); ok {
		err = fmt.Errorf("%w: %s", found, found.Hint)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// many are so many incidents, each with a command of so many bytes at least that begins with its generation; every other one has a
// flight record.
func many(n int, generation string, size int) []incident.Incident {
	incidents := make([]incident.Incident, n)
	for i := range incidents {
		incidents[i].Incident = verdict.Incident{
			ID: fmt.Sprintf("%s/%d", generation, i), Time: time.Date(2026, 11, 24, 12, 0, i, 0, time.UTC), Verdict: verdict.ContainerLimit,
			Victim: verdict.Owner{Path: "/kubepods/pod1/c", Identity: snapshot.Identity{Class: snapshot.ClassContainer, ContainerID: "c"}, Pod: "shop"},
			Comm:   generation + strings.Repeat("x", size), Kills: 1, Limit: snapshot.Of(256 << 20), Usage: snapshot.Value{}, VictimLimit: snapshot.Unlimited,
			Evidence: []verdict.Evidence{}, Updated: time.Date(2026, 11, 24, 12, 1, i, 0, time.UTC),
		}
		if i%2 > 0 {
			incidents[i].Flight = &flight.Record{
				Key: flight.Key{Path: "/kubepods/pod1/c", Inode: 7}, Limit: snapshot.Of(256 << 20), Gone: time.Date(2026, 11, 24, 12, 2, 0, 0, time.UTC),
				Samples: []flight.Sample{{Time: time.Date(2026, 11, 24, 12, 1, 0, 0, time.UTC), Usage: snapshot.Of(0)}},
			}
		}
	}
	return incidents
}

func open(t *testing.T, dir string) *incident.Disk {
	t.Helper()
	d, err := incident.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func save(t *testing.T, d *incident.Disk, incidents []incident.Incident) {
	t.Helper()
	if err := d.Save(incidents); err != nil {
		t.Fatal(err)
	}
}

func loaded(t *testing.T, d *incident.Disk, want []incident.Incident) {
	t.Helper()
	got, err := d.Load()
	if err != nil {
		t.Error(err)
	}
	same(t, got, want)
}

func same(t *testing.T, got, want []incident.Incident) {
	t.Helper()
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("there are %v, want %v", ids(got), ids(want))
	}
}

func ids(incidents []incident.Incident) (ids []string) {
	for i := range incidents {
		ids = append(ids, incidents[i].ID)
	}
	return ids
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "it")
	loaded(t, open(t, dir), nil)
	save(t, open(t, dir), many(3, "a", 0))
	loaded(t, open(t, dir), many(3, "a", 0))
	d := open(t, dir)
	save(t, d, many(2, "b", 0)) // in their place
	loaded(t, d, many(2, "b", 0))
	save(t, d, nil)
	loaded(t, d, nil)
	if got := names(t, dir); !slices.Equal(got, []string{"incidents.jsonl"}) {
		t.Errorf("the folder has %v", got)
	}
}

// Of too many the newest are kept: no more than 512, and no more than 4 MiB of them.
func TestBounded(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	incidents := many(1500, "count", 0)
	save(t, d, incidents)
	loaded(t, d, incidents[1500-512:])

	incidents = many(100, "size", 100_000)
	save(t, d, incidents)
	got, err := d.Load()
	if err != nil || len(got) < 35 || len(got) > 42 {
		t.Fatalf("%d incidents of 100 KB, %v", len(got), err)
	}
	same(t, got, incidents[100-len(got):])
	if info, err := os.Stat(filepath.Join(dir, "incidents.jsonl")); err != nil || info.Size() > 4<<20 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}

// Of a damaged file what can be read is given and kept; the file is set aside, which is said once.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	save(t, d, many(4, "a", 0))
	whole, err := os.ReadFile(filepath.Join(dir, "incidents.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(bytes.Lines(whole))
	a := many(4, "a", 0)
	for name, tt := range map[string]struct {
		content []byte
		left    []incident.Incident
	}{
		"cut":                 {whole[:len(whole)-20], a[:3]},
		"cut at a line's end": {whole[:len(whole)-1], a[:3]},
		"zeros in the middle": {slices.Concat(lines[0], make([]byte, 100), lines[1], lines[2], lines[3]), slices.Concat(a[:1], a[2:])},
		"zeros":               {make([]byte, 4096), nil},
		"other JSON":          {slices.Concat([]byte("{}\n[]\n3\n"), whole), a},
		"not text":            {[]byte("\xff\xfe\x00\n\x80"), nil},
		"a line is empty":     {slices.Concat(lines[0], []byte("\n"), lines[1]), a[:2]},
		"much too long":       {slices.Concat(whole, bytes.Repeat([]byte("x"), 5<<20)), a},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := open(t, dir)
			if err := os.WriteFile(filepath.Join(dir, "incidents.jsonl"), tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := d.Load()
			if found, ok := errors.AsType[*incident.Error](err); !ok || !errors.Is(err, incident.ErrDamaged) || !strings.HasPrefix(found.Error(), dir) ||
				!strings.Contains(found.Hint, "incidents.jsonl.damaged") {
				t.Errorf("the error is %#v", err)
			}
			same(t, got, tt.left)
			if aside, err := os.ReadFile(filepath.Join(dir, "incidents.jsonl.damaged")); err != nil || !bytes.Equal(aside, tt.content) {
				t.Errorf("what was set aside has %d bytes, %v", len(aside), err)
			}
			loaded(t, d, tt.left) // without a word
		})
	}
}

// Whatever is in the file, what Load gives is kept, and the next Load has nothing to say.
func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	d, err := incident.OpenDisk(dir)
	if err != nil {
		f.Fatal(err)
	}
	if err := d.Save(many(2, "a", 0)); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "incidents.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/3])
	f.Add([]byte("{\"id\":\"\\ud800\",\"time\":\"2026-11-24T12:00:00+23:59\"}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := d.Load()
		if err != nil && !errors.Is(err, incident.ErrDamaged) {
			t.Fatal(err)
		}
		again, err := d.Load()
		if err != nil || !slices.Equal(ids(again), ids(got)) {
			t.Fatalf("%v, then %v, %v", ids(got), ids(again), err)
		}
	})
}

// A second damaged file takes the place of the first: what is set aside is bounded as well.
func TestDamagedAgain(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for _, content := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, "incidents.jsonl"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load(); !errors.Is(err, incident.ErrDamaged) {
			t.Errorf("the error is %v", err)
		}
	}
	if aside, err := os.ReadFile(filepath.Join(dir, "incidents.jsonl.damaged")); err != nil || string(aside) != "two" {
		t.Errorf("%q is set aside, %v", aside, err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("the folder has %v", got)
	}
}

// An incident that can't be written does not keep the others from it.
func TestUnwritableIncident(t *testing.T) {
	d := open(t, t.TempDir())
	incidents := many(3, "a", 0)
	incidents[1].Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // not to be written in RFC 3339
	if err := d.Save(incidents); err == nil || !strings.Contains(err.Error(), "incident a/1: ") {
		t.Errorf("the error is %v", err)
	}
	loaded(t, d, slices.Delete(incidents, 1, 2))
}

// Killed at any moment, a process leaves incidents that it saved: all of one list, and the last that it said it had saved or a later one.
func TestKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	kills, unfinished := 0, 0
	for ; unfinished < 5 && kills < 200; kills++ {
		last := killWriter(t, dir, time.Duration(7*kills%60)*time.Millisecond)
		if _, err := os.Stat(filepath.Join(dir, "incidents.jsonl.new")); err == nil {
			unfinished++
		}
		got, err := open(t, dir).Load()
		if err != nil || len(got) == 0 {
			t.Fatalf("%d incidents, %v", len(got), err)
		}
		generation := 0
		if _, err := fmt.Sscanf(got[0].ID, "%d/0", &generation); err != nil || generation < last {
			t.Fatalf("the first is %s, it had saved those of %d", got[0].ID, last)
		}
		same(t, got, many(1+generation%100, fmt.Sprint(generation), 10_000))
	}
	t.Logf("killed %d times, %d of them in the middle of writing", kills, unfinished)
	if unfinished == 0 {
		t.Error("it was never killed in the middle of writing: this has tested nothing")
	}
}

// killWriter has TestMain's process write to a folder, kills it some time after it has saved its first list, and returns the last that it
// said it had saved.
func killWriter(t *testing.T, dir string, after time.Duration) (last int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), writeVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	lines.Scan()
	killing := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it ends in no other way
	defer killing.Stop()
	for ok := true; ok; ok = lines.Scan() {
		if n, err := strconv.Atoi(lines.Text()); err == nil && n > last {
			last = n
		}
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it ended with %v", err)
	}
	return last
}

// On a full file system, and on one that is read-only, the error says what to do, and what was saved before is still there.
func TestRealFullAndReadOnly(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("memrecon-test", dir, "tmpfs", 0, "size=128k"); err != nil {
		need.Missing(t, "needs to mount a tmpfs: "+err.Error()+"; in a container, run it privileged")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("%s stays mounted: %v", dir, err)
		}
	})
	d := open(t, dir)
	before := many(3, "before", 1000)
	save(t, d, before)

	check := func(err error, want error, hint string) {
		t.Helper()
		if found, ok := errors.AsType[*incident.Error](err); !ok || !errors.Is(err, want) || !strings.HasPrefix(found.Path, dir) || !strings.HasPrefix(found.Hint, hint) {
			t.Errorf("the error is %#v", err)
		}
	}
	large := many(50, "large", 10_000)
	check(d.Save(large), syscall.ENOSPC, "Make room there.")
	if len(large) != 50 || large[49].ID != "large/49" {
		t.Error("what could not be saved has changed")
	}
	loaded(t, d, before)
	if got := names(t, dir); !slices.Equal(got, []string{"incidents.jsonl"}) {
		t.Errorf("the folder has %v", got)
	}
	after := many(4, "after", 1000)
	save(t, d, after) // there is room for less

	if err := os.WriteFile(filepath.Join(dir, "incidents.jsonl"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	const readOnly = syscall.MS_REMOUNT | syscall.MS_RDONLY
	if err := syscall.Mount("memrecon-test", dir, "tmpfs", readOnly, "size=128k"); err != nil {
		t.Fatal(err)
	}
	check(d.Save(after), syscall.EROFS, "Mount it so that it can be written to.")
	_, err := incident.OpenDisk(dir)
	check(err, syscall.EROFS, "Mount it so that it can be written to.")
	_, err = d.Load()
	check(err, incident.ErrDamaged, "What can be read of it is kept in memory.")
}

func TestNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := incident.OpenDisk(dir)
		if found, ok := errors.AsType[*incident.Error](err); !ok || found.Path != file || !strings.HasPrefix(found.Hint, "Give a folder.") {
			t.Errorf("%s: %#v", dir, err)
		}
	}
}

// In a folder of somebody else's, as for an agent that is not root.
func TestRealPermission(t *testing.T) {
	need.Root(t)
	cmd := exec.Command("/proc/self/exe") // by its path others may not get there
	cmd.Env = append(os.Environ(), writeVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(said), "permission denied: Let the user 65534, as whom memrecon runs, write to the folder.") {
		t.Errorf("it says %q, %v", said, err)
	}
}
