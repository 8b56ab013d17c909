package lease

// Suspend makes a process look dead to etcd until resume: its session is not renewed, and it makes no other.
func Suspend(l *Leases) (resume func()) {
	l.mu.Lock()
	l.session.Orphan()
	return l.mu.Unlock
}
