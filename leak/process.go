package leak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
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
