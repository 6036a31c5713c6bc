package poiptest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentsNameTestsThatExist: a document that promises something names the
// test that proves it. An ellipsis stands for any end of a name.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	tests := testNames(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)(…?)`")
	documents, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			exists := strings.Contains(tests, "\n"+m[1]+"(")
			if m[2] != "" {
				exists = strings.Contains(tests, "\n"+m[1])
			}
			if !exists {
				t.Errorf("%s names %s, which is no test", document, m[1])
			}
		}
	}
}

// testNames are those of the whole module, each on a line, with a bracket behind it.
func testNames(t *testing.T) string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]*\()`)
	names := "\n"
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names += m[1] + "\n"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
