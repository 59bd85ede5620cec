from preparation.readers.capture import main

if __name__ == "__main__":
    main()
