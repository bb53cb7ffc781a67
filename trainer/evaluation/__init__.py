"""What bases and adapters answer to rows with known answers, how right that is, and what an adapter gains."""
