package leak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// WhileParentLives is a context that ends with the process's parent. A parent that dies leaves its children to another
// process, so the parent's number changes; PR_SET_PDEATHSIG would tell of the end of the one thread that made the child.
// A process whose parent is process 1, or out of sight as a container's first, has none to wait for.
func WhileParentLives(ctx context.Context) context.Context {
	parent := os.Getppid()
	if parent <= 1 {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for ctx.Err() == nil {
			if os.Getppid() != parent {
				cancel(errors.New("its parent has ended"))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return ctx
}

// SetOOMScoreAdj says how soon the kernel is to kill this process, -1000 to 1000.
func (w *Watcher) SetOOMScoreAdj(score string) error {
	file := filepath.Join(w.procfs, "self", "oom_score_adj")
	if err := os.WriteFile(file, []byte(score), 0); err != nil {
		return fmt.Errorf("%w: a lower value than now needs CAP_SYS_RESOURCE; --oom-score-adj keep leaves it", err)
	}
	return nil
}

// Trim gives back what only starting needed: garbage on the heap, and the pages of the program's own file that are mapped. The
// kernel maps those again as they are used, which is about half of them. What it can't give back stays.
func Trim(procfs string) {
	const percent = 25 // the heap stays near its smallest
	debug.SetGCPercent(percent)
	debug.FreeOSMemory()
	self, err := os.Executable()
	if err != nil {
		return
	}
	smaps, err := os.ReadFile(filepath.Join(procfs, "self", "smaps"))
	if err != nil {
		return
	}
	for _, m := range cleanMappings(string(smaps), self) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings are those of a file that nobody writes to, in the text of a smaps, and in which no page is the process's own:
// such a page, which a loader has relocated, is not in the file.
//
//	00400000-00a71000 r-xp 00000000 fe:00 9995268                            /usr/bin/memrecon
//	Size:               6596 kB
//	Anonymous:             0 kB
func cleanMappings(smaps, file string) (clean []mapping) {
	var current mapping
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if strings.HasSuffix(fields[0], ":") {
			if fields[0] == "Anonymous:" && fields[1] == "0" && current != (mapping{}) {
				clean = append(clean, current)
			}
			continue
		}
		current = mapping{}
		if start, end, ok := strings.Cut(fields[0], "-"); ok && len(fields) > 5 && fields[5] == file && strings.HasPrefix(fields[1], "r-") {
			from, err1 := strconv.ParseUint(start, 16, 64)
			to, err2 := strconv.ParseUint(end, 16, 64)
			if err1 == nil && err2 == nil {
				current = mapping{uintptr(from), uintptr(to)}
			}
		}
	}
	return clean
}
