// Package owner is about whose files are. It lets root work in folders of
// other users and leave nothing there that these cannot use: a service has a
// user of its own; its operator is root, and runs commands in its data folder.
// And it sees to it that secrets are their owner's alone (secret.go).
package owner

import (
	"errors"
	"io/fs"
	"os"
)

// Mkdir makes a folder in root, for whom root belongs to.
func Mkdir(root *os.Root, name string, mode fs.FileMode) error {
	if err := root.Mkdir(name, mode); err != nil {
		return err
	}
	made, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(Give(made, root), made.Close())
}
