package broker

// The writer's role.
const (
	free  int32 = iota
	taken       // somebody writes
	again       // and shall look again before releasing it
)

// inlineSteps bounds what the intake writes to one subscriber on the spot.
const inlineSteps = 3

func (s *subscriber) claim() bool {
	for {
		switch role := s.role.Load(); role {
		case free:
			if s.role.CompareAndSwap(free, taken) {
				return true
			}
		case again:
			return false
		default:
			if s.role.CompareAndSwap(taken, again) {
				return false
			}
		}
	}
}

func (s *subscriber) release() bool {
	if s.role.CompareAndSwap(taken, free) {
		return true
	}
	s.role.Store(taken)
	return false
}

// handOver gives the role to the own goroutine, which has none and waits for it.
func (s *subscriber) handOver() { s.handed <- struct{}{} }

// notify wakes the own goroutine, or has whoever writes look again.
func (s *subscriber) notify() {
	if s.claim() {
		s.handOver()
	}
}

// serve writes what there is, as far as that needs no waiting.
func (s *subscriber) serve() {
	if !s.claim() {
		return
	}
	s.own = false
	for range inlineSteps {
		switch s.step() {
		case idle:
			if s.release() {
				return
			}
		case blocked, over, notHere:
			s.handOver()
			return
		}
	}
	s.handOver()
}

// run is the own goroutine. It returns when the subscriber is over, and keeps
// the role.
func (s *subscriber) run() {
	for {
		<-s.handed
		s.own = true
		for working := true; working; {
			switch s.step() {
			case idle:
				working = !s.release()
			case blocked:
				s.await()
			case over:
				return
			}
		}
	}
}
