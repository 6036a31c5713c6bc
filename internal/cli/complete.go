package cli

import "github.com/spf13/cobra"

// Choices has the shell complete a flag's value from a few.
func Choices(cmd *cobra.Command, flag string, values ...string) {
	Complete(cmd, flag, func() []string { return values })
}

// Complete has the shell complete a flag's value from what can be found out.
func Complete(cmd *cobra.Command, flag string, values func() []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // there is no such flag
	}
}

// CompleteFirst has the shell complete a command's first argument.
func CompleteFirst(cmd *cobra.Command, values func() []string) {
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return values(), cobra.ShellCompDirectiveNoFileComp
	}
}
