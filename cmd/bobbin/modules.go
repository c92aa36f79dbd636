package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// moduleSuffixes are the files that modules push takes.
var moduleSuffixes = []string{".star", ".py", ".mjs"}

// maxModuleBytes bounds one module: every worker holds all of them in memory.
const maxModuleBytes = 4 << 20

func (a *app) modulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "modules", Short: "Publish and look at workflow modules", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("modules: expected one of push DIR, list, show PATH, delete PATH")
		},
	}
	cmd.AddCommand(a.modulesPush(), a.modulesList(), a.modulesShow(), a.modulesDelete())
	return cmd
}

func (a *app) modulesPush() *cobra.Command {
	return &cobra.Command{
		Use: "push DIR", Short: "Publish every module under DIR in one step", Args: exactly("DIR"),
		Long: "Publish every workflow module under DIR in one step, under its path relative to DIR. Executions that start after\n" +
			"it see all of them, on every worker. Modules that are not under DIR stay as they are.",
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, err := readModules(os.DirFS(args[0]))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if len(sources) == 0 {
				return usageError("%s holds no modules, expected files that end in %s", args[0], strings.Join(moduleSuffixes, ", "))
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			current, err := q.PushModules(cmd.Context(), sources)
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(sources)) {
				fmt.Fprintln(a.stdout, name)
			}
			fmt.Fprintf(a.stderr, "published %d modules as version %s\n", len(sources), current)
			return nil
		},
	}
}

// readModules reads every module of a file system. Hidden folders are passed over.
func readModules(files fs.FS) (map[string]string, error) {
	sources := map[string]string{}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if entry.IsDir() || !slices.Contains(moduleSuffixes, path.Ext(name)) {
			return nil
		}
		source, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if len(source) > maxModuleBytes {
			return fmt.Errorf("module %s is %d bytes, expected at most %d", name, len(source), maxModuleBytes)
		}
		sources[name] = string(source)
		return nil
	})
	return sources, err
}

func (a *app) modulesList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the published modules", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			current, sources, err := q.Modules(cmd.Context())
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(sources)) {
				fmt.Fprintf(a.stdout, "%s\t%d bytes\n", name, len(sources[name]))
			}
			fmt.Fprintf(a.stderr, "%d modules, version %s\n", len(sources), current)
			return nil
		},
	}
}

func (a *app) modulesShow() *cobra.Command {
	return &cobra.Command{
		Use: "show PATH", Short: "Print the source of a module", Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			_, sources, err := q.Modules(cmd.Context())
			if err != nil {
				return err
			}
			source, ok := sources[args[0]]
			if !ok {
				return fmt.Errorf("no module %q is published; bobbin modules list shows which are", args[0])
			}
			_, err = fmt.Fprint(a.stdout, source)
			return err
		},
	}
}

func (a *app) modulesDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete PATH", Short: "Remove a module", Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			deleted, err := q.DeleteModules(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if deleted == 0 {
				return fmt.Errorf("no module %q is published; bobbin modules list shows which are", args[0])
			}
			fmt.Fprintf(a.stderr, "deleted %s\n", args[0])
			return nil
		},
	}
}
