package broker

import (
	"fmt"
	"reflect"
	"slices"
)

// changes names the keys in which two configurations differ, without their
// values: "stream.memory", "listener.branches.allow". A listener or analyst
// that is only in one of them is named as a whole.
func changes(before, after Config) []string {
	var out []string
	compareTables("", reflect.ValueOf(before), reflect.ValueOf(after), &out)
	slices.Sort(out)
	return out
}

func compareTables(prefix string, a, b reflect.Value, out *[]string) {
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get("toml")
		if name == "" {
			continue
		}
		x, y := a.Field(i), b.Field(i)
		switch {
		case x.Kind() == reflect.Struct:
			compareTables(prefix+name+".", x, y, out)
		case x.Kind() == reflect.Slice && x.Type().Elem().Kind() == reflect.Struct:
			compareArrays(prefix+name+".", x, y, out)
		case !reflect.DeepEqual(x.Interface(), y.Interface()):
			*out = append(*out, prefix+name)
		}
	}
}

// compareArrays compares tables of the same name.
func compareArrays(prefix string, a, b reflect.Value, out *[]string) {
	x, y := byName(a), byName(b)
	for name, v := range x {
		if w, ok := y[name]; ok {
			compareTables(prefix+name+".", v, w, out)
		} else {
			*out = append(*out, prefix+name)
		}
	}
	for name := range y {
		if _, ok := x[name]; !ok {
			*out = append(*out, prefix+name)
		}
	}
}

// byName expects that the names were checked.
func byName(tables reflect.Value) map[string]reflect.Value {
	out := make(map[string]reflect.Value)
	for i := range tables.Len() {
		out[fmt.Sprint(tables.Index(i).FieldByName("Name"))] = tables.Index(i)
	}
	return out
}
