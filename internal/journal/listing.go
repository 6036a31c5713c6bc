package journal

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
)

// A found segment is what the folder holds of one.
type found struct {
	name        name
	index       bool
	generations []uint32 // of packet files, ascending
}

// A listing is what the folder holds in all.
type listing struct {
	segments []*found // oldest first
	drafts   []string // that were not finished
	kept     []keptFile
}

// list reads the names in the folder. It opens nothing.
func list(fsys FS) (l listing, err error) {
	all, err := fsys.ReadDir(".")
	if err != nil {
		return l, fmt.Errorf("list segments: %w", err)
	}
	byName := map[name]*found{}
	for _, d := range all {
		n, kind, generation, ok := parseFileName(d.Name())
		if !ok || !d.Type().IsRegular() {
			continue
		}
		if kind == draftFile {
			l.drafts = append(l.drafts, d.Name())
			continue
		}
		encrypted := n.encrypted
		n.encrypted = false // which the name of an index does not say
		f := byName[n]
		if f == nil {
			f = &found{name: n}
			byName[n] = f
			l.segments = append(l.segments, f)
		}
		f.name.encrypted = f.name.encrypted || encrypted
		if kind == indexFile {
			f.index = true
		} else {
			f.generations = append(f.generations, generation)
		}
	}
	slices.SortFunc(l.segments, func(a, b *found) int {
		return cmp.Or(cmp.Compare(a.name.seq, b.name.seq), cmp.Compare(a.name.String(), b.name.String()))
	})
	for _, f := range l.segments {
		slices.Sort(f.generations)
	}
	l.kept = listKept(fsys)
	return l, nil
}

// halfDeleted says whether of the oldest segment the packets are deleted
// already. The last segment that says how far the log has got stays.
func (l *listing) halfDeleted(fsys FS) bool {
	if len(l.segments) < 2 || !l.segments[0].index || len(l.segments[0].generations) > 0 {
		return false
	}
	if len(l.segments) == 2 {
		last := examination{fs: fsys, found: l.segments[1]}
		last.open()
		last.close()
		if last.reindex {
			return false
		}
	}
	x := examination{fs: fsys, found: l.segments[0]}
	x.open()
	defer x.close()
	return x.header.flags&flagNoPackets == 0 && x.impossible == nil // else it needs none
}

// listKept is what is in quarantine, oldest segment first.
func listKept(fsys FS) (kept []keptFile) {
	all, err := fsys.ReadDir(quarantine)
	if err != nil {
		return nil // mostly there is none
	}
	for _, d := range all {
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() && fs.ValidPath(d.Name()) {
			kept = append(kept, keptFile{quarantine + "/" + d.Name(), blocks(info.Size())})
		}
	}
	return kept
}
