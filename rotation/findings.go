package rotation

// FindingIDs are the ids of all findings that certd reports, in order. A test
// keeps them in step with docs/reference/findings.md.
func FindingIDs() []string {
	return []string{
		"AnchorEnds", "AnchorExpired", "AnchorExpiring", "AnchorKeyElsewhere", "AnchorNotRecovered", "AnchorNotRenewed", "ApprovalWanted",
		"BackupFailed", "BundleUnusable", "ClockSkew", "ClusterDenied", "ClusterUnreachable", "ConfigReloadFailed", "CredentialEnds", "DaemonNotRunning", "Deposed",
		"ForeignAnchorExpired", "ForeignAnchorExpiring", "IdentityTrustsOldDates", "IssuerBelowFloor", "IssuerExpired",
		"IssuerLoadUnknown", "IssuerLost", "IssuerNotLoaded", "IssuerUnusable", "JournalFailed", "KeyExportable", "KeyUnfit",
		"KeysDenied", "KeysUnavailable", "LeftBehind", "LifetimeTooShort", "MirrorFailed", "NamespaceMissing", "NoAnchor", "NotConverged",
		"NotSeenLately", "NotSeenYet", "NotifyFailing", "Paused", "ProxiesStale", "RenewalOverdue", "RepairHeldBack", "RestartWaits", "SameCluster",
		"SecondDaemon", "SecondWriter", "SignatureBudget", "StepFailed", "TrustChangeHeld", "TrustChangeWithout", "TrustCompromised", "WatchedOnly",
		"WebhookBelowFloor", "WebhookBroken", "WebhookCAEnds", "WebhookCheckUnknown", "WebhookDenied", "WebhookExpired",
		"WebhookManagedElsewhere", "WebhookMissing", "WebhookNotServed", "WebhookOverdue", "WebhookServedUnknown", "WebhookUnseen",
		"WebhookUntrusted", "WebhookUnusable",
	}
}
