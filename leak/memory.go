package leak

import (
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// memory is what a kind of memory is taken with. Sizes are in bytes and multiples of the granule that the kind was made
// with. It is for one goroutine at a time.
type memory interface {
	// grow takes n more bytes.
	grow(n uint64) error
	// shrink gives the newest n bytes back.
	shrink(n uint64) error
	// touched is how many of the bytes taken were touched, so that the kernel had to find pages for them.
	touched() uint64
	// touch uses all that was touched once more, so that the kernel finds it active.
	touch() error
	// close gives everything back.
	close() error
}

// mapped is anonymous memory in blocks of one mapping each.
type mapped struct {
	blockBytes uint64
	// limit is how much is mapped at most, 0 for no limit: the last block may be smaller than the others.
	limit   uint64
	pattern pattern
	workers int
	// prepare is called with each new block before any of it is touched.
	prepare func([]byte) error
	// populated is called with what was touched, and may be nil.
	populated func([]byte) error
	// granule is what a block's address is a multiple of: a page, or a huge page.
	granule uint64

	blocks []block
	pages  uint64 // touched
}

// block is one mapping. The bytes up to used were taken.
type block struct {
	data []byte
	used uint64
	// unmap is the whole mapping, of which data is the aligned part.
	unmap []byte
}

// pattern says which pages of a block are touched.
type pattern struct {
	// ratio is the share of each block that is touched, 0 to 1.
	ratio float64
	// spread touches pages all over the block in place of its first ones.
	spread bool
}

// touches tells whether page i of a block of n pages is touched.
func (p pattern) touches(i, n uint64) bool {
	switch {
	case p.ratio >= 1:
		return true
	case p.spread:
		return uint64(float64(i+1)*p.ratio) > uint64(float64(i)*p.ratio)
	}
	return float64(i) < float64(n)*p.ratio
}

func pageSize() uint64 { return uint64(os.Getpagesize()) }

func (m *mapped) grow(n uint64) error {
	for n > 0 {
		if len(m.blocks) == 0 || m.last().used == uint64(len(m.last().data)) {
			if err := m.mapBlock(); err != nil {
				return err
			}
		}
		b := m.last()
		part := min(n, uint64(len(b.data))-b.used)
		if err := m.fill(b, b.used, b.used+part); err != nil {
			return err
		}
		b.used += part
		n -= part
	}
	return nil
}

func (m *mapped) last() *block { return &m.blocks[len(m.blocks)-1] }

func (m *mapped) mapBlock() error {
	size := m.blockBytes
	if before := uint64(len(m.blocks)) * m.blockBytes; before < m.limit { // all are whole but the last one
		size = min(size, m.limit-before)
	}
	room := size
	if m.granule > pageSize() {
		room += m.granule // the kernel aligns to pages alone
	}
	all, err := unix.Mmap(-1, 0, int(room), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return &os.SyscallError{Syscall: "mmap", Err: err}
	}
	data := all[alignment(all, m.granule):][:size:size]
	if err := m.prepare(data); err != nil {
		_ = unix.Munmap(all)
		return err
	}
	m.blocks = append(m.blocks, block{data: data, unmap: all})
	return nil
}

// fill touches the pages of a block from one offset to another, as the pattern says.
func (m *mapped) fill(b *block, from, to uint64) error {
	page := pageSize()
	all := (uint64(len(b.data)) + page - 1) / page
	for i := from / page; i < to/page; {
		if !m.pattern.touches(i, all) {
			i++
			continue
		}
		end := i + 1
		for end < to/page && m.pattern.touches(end, all) {
			end++
		}
		part := b.data[i*page : end*page]
		if err := m.populate(part); err != nil {
			return err
		}
		if m.populated != nil {
			if err := m.populated(part); err != nil {
				return err
			}
		}
		m.pages += end - i
		i = end
	}
	return nil
}

// leastShare is what a worker takes at least at a time: Go's scheduler looks after every system call that takes long.
const leastShare = 1 << 20

// populate has the kernel find pages for all of b. A worker takes its share of half of what is left, so that none waits long for the
// last, also where the machine has kept one from running.
func (m *mapped) populate(b []byte) error {
	workers := min(m.workers, (len(b)+leastShare-1)/leastShare)
	if workers <= 1 {
		return populate(b)
	}
	var mu sync.Mutex
	next := func() []byte {
		mu.Lock()
		defer mu.Unlock()
		n := max(leastShare, int(roundUp(uint64(len(b)/(2*workers)), m.granule)))
		part := b[:min(n, len(b))]
		b = b[len(part):]
		return part
	}
	var all errgroup.Group
	for range workers {
		all.Go(func() error {
			for part := next(); len(part) > 0; part = next() {
				if err := populate(part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// populate uses MADV_POPULATE_WRITE (Linux 5.14), which spares a page fault for each page. An older kernel answers EINVAL;
// then each page is written to.
func populate(b []byte) error {
	switch err := unix.Madvise(b, unix.MADV_POPULATE_WRITE); err {
	case nil:
		return nil
	case unix.EINVAL:
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		return nil
	default:
		return &os.SyscallError{Syscall: "madvise(MADV_POPULATE_WRITE)", Err: err}
	}
}

func (m *mapped) shrink(n uint64) error {
	for n > 0 && len(m.blocks) > 0 {
		b := m.last()
		part := min(n, b.used)
		m.pages -= m.count(b, b.used-part, b.used)
		b.used -= part
		n -= part
		if b.used == 0 {
			if err := unix.Munmap(b.unmap); err != nil {
				return &os.SyscallError{Syscall: "munmap", Err: err}
			}
			m.blocks = m.blocks[:len(m.blocks)-1]
			continue
		}
		freed := b.data[b.used : b.used+part]
		_ = unix.Munlock(freed) // locked pages are not given back
		if err := unix.Madvise(freed, unix.MADV_DONTNEED); err != nil {
			return &os.SyscallError{Syscall: "madvise(MADV_DONTNEED)", Err: err}
		}
	}
	return nil
}

// count is how many pages between two offsets of a block are touched.
func (m *mapped) count(b *block, from, to uint64) (pages uint64) {
	page := pageSize()
	all := (uint64(len(b.data)) + page - 1) / page
	for i := from / page; i < to/page; i++ {
		if m.pattern.touches(i, all) {
			pages++
		}
	}
	return pages
}

func (m *mapped) touched() uint64 { return m.pages * pageSize() }

func (m *mapped) touch() error {
	page := pageSize()
	var sum byte
	for i := range m.blocks {
		b := &m.blocks[i]
		all := (uint64(len(b.data)) + page - 1) / page
		for p := range b.used / page {
			if m.pattern.touches(p, all) {
				sum += b.data[p*page]
			}
		}
	}
	runtime.KeepAlive(sum)
	return nil
}

func (m *mapped) close() error {
	for i := range m.blocks {
		if err := unix.Munmap(m.blocks[i].unmap); err != nil {
			return &os.SyscallError{Syscall: "munmap", Err: err}
		}
	}
	m.blocks, m.pages = nil, 0
	return nil
}
