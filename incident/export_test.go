package incident

// Woken tells that the kernel's log is to be read, and takes the word.
func (w *Watch) Woken() bool {
	select {
	case <-w.wake:
		return true
	default:
		return false
	}
}
