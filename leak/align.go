package leak

import "unsafe"

// alignment is the offset of the first byte of b whose address is a multiple of align.
func alignment(b []byte, align uint64) uint64 {
	if align <= pageSize() {
		return 0
	}
	return -uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) % align
}
